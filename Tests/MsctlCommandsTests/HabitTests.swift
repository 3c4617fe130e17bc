import CommandTable
import Testing

@testable import MsctlCommands

@Suite("Options of other tools")
struct HabitTests {
  static let habits: [(String, [Habit])] = [
    ("call", .curl), ("publish", .publishing), ("consume", .consuming), ("register", .registering),
    ("discover", .discovering),
  ]

  @Test("are named with what there is in their place", arguments: habits)
  func hints(_ verb: String, _ habits: [Habit]) throws {
    for habit in habits {
      for word in habit.words {
        // An option of the verb's own would hide it.
        let error = AllCommands.check([verb, word, "x"])
        #expect(error?.message == "'\(word)' is not an option of '\(verb)'")
        #expect(error?.hint(program: "msctl") == habit.hint, "\(verb) \(word)")
      }
    }
  }

  @Test("lead to options that there are", arguments: habits)
  func options(_ verb: String, _ habits: [Habit]) throws {
    let spec = try #require(AllCommands.specs.first { $0.name == verb })
    for habit in habits {
      for option in habit.hint.matches(of: /'(--[a-z-]+)/).map({ String($0.output.1) }) {
        #expect(spec.flags.contains { "--" + $0.long == option }, "\(verb): \(habit.hint)")
      }
    }
  }

  @Test(
    "that users write first",
    arguments: [
      (["call", "-X", "DELETE", ":3000/a"], "'msctl call DELETE URL'"),
      (["call", "-I", ":3000/a"], "'msctl call HEAD URL"),
      (["call", "-u", "a:b", ":3000"], "'--basic @FILE'"), (["call", "--max-time", "5", ":3000"], "'--timeout TIME'"),
      (["call", "--json", ":3000"], "name=Ada"), (["publish", "q", "-d", "{}"], "MESSAGE"),
      (["publish", "q", "--timeout", "5"], "'--confirm-timeout TIME'"),
      (["consume", "q", "--timeout", "5"], "'--for TIME'"),
      (["publish", "q", "--user", "a"], "with the login in the URL"), (["consume", "q", "--head"], "lists them"),
      (["consume", "-q", "q"], nil), (["consume", "-c", "5", "q"], "'--count N'"),
    ] as [([String], String?)])
  func first(_ words: [String], _ part: String?) throws {
    let hint = AllCommands.check(words)?.hint(program: "msctl")
    #expect(hint?.contains(part ?? "") ?? (part == nil), "\(words): \(hint ?? "no hint")")
  }
}
