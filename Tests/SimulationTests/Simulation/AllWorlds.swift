/// Every world; schedules take turns.
package let allWorlds: [any World.Type] = [CallingWorld.self, RegisteringWorld.self]
