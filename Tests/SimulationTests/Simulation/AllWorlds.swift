/// Every world; schedules take turns.
package let allWorlds: [any World.Type] = [
  ConsumingWorld.self, PublishingWorld.self, CallingWorld.self, RegisteringWorld.self, WatchingWorld.self,
]
