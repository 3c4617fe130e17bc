import CommandTable
import Testing

/// A made-up command with one option of each kind.
private struct Options: Defaulted, Equatable {
  enum Colour: String, ArgumentChoice { case red, green, blue }

  var count = 3
  var name: String?
  var colour = Colour.green
  var tags: [String] = []
  var isQuiet = false
  var isBrief = false
  var secret = 0
  var owner: String?
  var method: String?
  var target = ""
  var rest: [String] = []
}

private let paint = Command<Options>(
  "paint", "paint a wall",
  flags: [
    .number("count", "c", "N", in: 1...9, into: \.count, "How often"),
    .value("name", "n", "NAME", into: \.name, "Who").variable("PAINT_NAME"),
    .value("colour", nil, "COLOUR", into: \.colour, "Which colour"),
    .list("tag", "t", "TAG", into: \.tags, "A tag"),
    .toggle("quiet", "q", into: \.isQuiet, "Say nothing"),
    .toggle("brief", "b", into: \.isBrief, "Say little"),
    .value("secret", nil, "NUMBER", into: \.secret, "A secret number").secret().variable("PAINT_SECRET"),
    .value("wall-of", nil, "NAME", into: \.owner, "Whose wall").unsets(variableOf: "secret"),
  ],
  operands: [
    .optional("METHOD", into: \.method, "An upper-case word") { ("A"..."Z").contains($0.prefix(1)) },
    .one("TARGET", into: \.target, "The wall"),
    .many("ITEM", into: \.rest, "More"),
  ],
  variables: [.value("PAINT_COLOUR", into: \.colour, "The colour").secret()],
  check: { options throws(ValueError) in
    if options.isQuiet, options.isBrief { throw ValueError("'--quiet' cannot be combined with '--brief'") }
  })

private func parsed(_ words: String..., environment: [String: String] = [:]) throws -> Options {
  guard case .run(let options) = try paint.parse(words, environment: environment) else {
    throw UsageError.unknownCommand("help was asked for", known: [])
  }
  return options
}

private func refusal(_ words: String..., environment: [String: String] = [:]) -> UsageError? {
  do {
    _ = try paint.parse(words, environment: environment)
    return nil
  } catch { return error }
}

@Suite("The parser")
struct ParserTests {
  @Test(
    "takes a value after a space, an equals sign or directly",
    arguments: [
      ["--count", "5", "wall"], ["--count=5", "wall"], ["-c", "5", "wall"], ["-c5", "wall"], ["wall", "-c5"],
    ])
  func values(_ words: [String]) throws {
    guard case .run(let options) = try paint.parse(words) else { return #expect(Bool(false)) }
    #expect(options.count == 5)
    #expect(options.target == "wall")
  }

  @Test("takes bundled switches, the last of which may have a value")
  func bundles() throws {
    let options = try parsed("-qc", "4", "wall")
    #expect(options.isQuiet && options.count == 4)
    #expect(try parsed("-qc4", "wall").count == 4)
  }

  @Test("takes options anywhere before '--', and everything after it as operands")
  func dashes() throws {
    let options = try parsed("wall", "-q", "--", "--count", "-x")
    #expect(options.isQuiet)
    #expect(options.rest == ["--count", "-x"])
  }

  @Test("takes '-' and an empty word as operands")
  func loneDash() throws {
    #expect(try parsed("-", "").rest == [""])
    #expect(try parsed("-").target == "-")
  }

  @Test("adds up options that repeat, and lets the last of others count")
  func repeats() throws {
    let options = try parsed("-t", "a", "wall", "--tag=b", "-c1", "-c2")
    #expect(options.tags == ["a", "b"])
    #expect(options.count == 2)
  }

  @Test("takes an optional operand only where it fits")
  func optionalOperand() throws {
    #expect(try parsed("PUT", "wall").method == "PUT")
    #expect(try parsed("wall").method == nil)
  }

  @Test("lets an option win over its variable, and both over the default; an empty variable is none")
  func variables() throws {
    #expect(try parsed("wall", environment: ["PAINT_NAME": "Ada"]).name == "Ada")
    #expect(try parsed("wall", "-nBob", environment: ["PAINT_NAME": "Ada"]).name == "Bob")
    #expect(try parsed("wall", environment: ["PAINT_NAME": ""]).name == nil)
    #expect(try parsed("wall", environment: ["PAINT_COLOUR": "red"]).colour == .red)
    // One that belongs to the value of another option goes with it.
    let environment = ["PAINT_SECRET": "7"]
    #expect(try parsed("wall", environment: environment).secret == 7)
    #expect(try parsed("wall", "--wall-of", "Ada", environment: environment).secret == 0)
    #expect(try parsed("wall", "--wall-of", "Ada", "--secret", "8", environment: environment).secret == 8)
  }

  @Test(
    "answers a wish for help before anything that can fail",
    arguments: [
      (["--nonsense", "-h"], Help.Length.screen), (["--count", "--help"], .full), (["--help", "-h"], .full),
    ])
  func help(_ words: [String], _ length: Help.Length) throws {
    #expect(try paint.parse(words) == .help(length))
  }

  @Test(
    "says what is wrong, quotes the word and names the next step",
    arguments: [
      (["--cuont", "5", "w"], "'--cuont' is not an option of 'paint'", "Did you mean '--count'?"),
      (["--zzz", "w"], "'--zzz' is not an option of 'paint'", "'msctl paint -h' lists them."),
      (["--coun=5", "w"], "'--coun' is not an option of 'paint'", "Did you mean '--count'?"),
      (["-count", "5", "w"], "-c: 'ount' is not a whole number", nil),
      (["-quiet", "w"], "'-quiet' is not an option of 'paint'", "Did you mean '--quiet'?"),
      (["-qz", "w"], "'-z' is not an option of 'paint'", "'msctl paint -h' lists them."),
      (["w", "--count"], "'--count' requires a value (N)", "Write '--count N'."),
      (["w", "-c"], "'-c' requires a value (N)", "Write '-c N'."),
      (
        ["w", "--name", "--quiet"], "'--name' requires a value (NAME), but '--quiet' looks like an option",
        "To pass '--quiet' as the value, write '--name=--quiet'."
      ),
      (["w", "--quiet=yes"], "'--quiet' takes no value, but 'yes' was given", "Write '--quiet' alone."),
      (["w", "--count=ten"], "--count: 'ten' is not a whole number", nil),
      (["w", "--count", "10"], "--count: '10' must be between 1 and 9", nil),
      (["w", "--count="], "--count: '' is not a whole number", nil),
      (["w", "--colour", "gren"], "--colour: 'gren' is not one of red, green, blue; did you mean 'green'?", nil),
      ([], "'paint' requires TARGET: The wall", "'msctl paint -h' shows the usage."),
      (["w", "-qb"], "'--quiet' cannot be combined with '--brief'", nil),
    ] as [([String], String, String?)])
  func refusals(_ words: [String], _ message: String, _ hint: String?) {
    do {
      _ = try paint.parse(words)
      Issue.record("was accepted")
    } catch {
      #expect(error.message == message)
      #expect(error.hint(program: "msctl") == hint)
    }
  }

  @Test("hands the words after '--' to an operand that wants just those")
  func restAfterDashes() throws {
    let run = Command<Options>(
      "run", "run a command", flags: [.toggle("quiet", "q", into: \.isQuiet, "Say nothing")],
      operands: [.one("TARGET", into: \.target, "The wall"), .rest("COMMAND", into: \.rest, "The command")])
    guard case .run(let options) = try run.parse(["wall", "--", "ls", "-q", "--", "x"]) else { return }
    #expect(options.target == "wall" && options.rest == ["ls", "-q", "--", "x"] && !options.isQuiet)
    #expect(throws: UsageError.nothingAfterDashes(command: "run")) { _ = try run.parse(["wall", "--"]) }
    #expect(throws: UsageError.extraOperand("ls", command: "run")) { _ = try run.parse(["wall", "ls"]) }
    #expect(run.spec.usage(of: "msctl") == "msctl run [OPTION ...] TARGET [-- COMMAND ...]")
  }

  @Test("understands -h among other switches")
  func bundledHelp() throws {
    #expect(try paint.parse(["-qh"]) == .help(.screen))
  }

  @Test("names what it does not know what to do with")
  func extraOperand() {
    let narrow = Command<Options>("narrow", "take one", flags: [], operands: [.one("TARGET", into: \.target, "It")])
    #expect(throws: UsageError.extraOperand("b", command: "narrow")) { _ = try narrow.parse(["a", "b"]) }
  }

  @Test("never repeats a value that may be a secret")
  func secrets() {
    #expect(refusal("w", "--secret", "hunter2")?.message == "--secret: the value is not a whole number")
    #expect(
      refusal("w", environment: ["PAINT_SECRET": "hunter2"])?.message == "PAINT_SECRET: the value is not a whole number"
    )
    #expect(
      refusal("w", environment: ["PAINT_COLOUR": "hunter2"])?.message.hasPrefix("PAINT_COLOUR: the value is not one of")
        == true)
  }

  @Test(
    "finds the word that was meant, and none where none is near",
    arguments: [
      ("pubish", "publish"), ("consmue", "consume"), ("cal", "call"), ("disc", "discover"), ("xyzzy", nil), ("q", nil),
      ("--json", nil), ("--reconnect", "--reconnect-for"), ("--conn", "--connect-timeout"),
    ] as [(String, String?)])
  func suggestions(_ word: String, _ meant: String?) {
    let known = ["call", "publish", "consume", "register", "discover"]
    let flags = ["--json-errors", "--reconnect-for", "--connect-timeout"]
    #expect(nearest(to: word, in: known + flags) == meant)
  }
}

@Suite("Help")
struct HelpTests {
  @Test("shows every option with its default, choices and variable")
  func options() {
    let text = Help.text(of: paint.spec, program: "msctl", .screen)
    #expect(text.hasPrefix("Usage: msctl paint [OPTION ...] [METHOD] TARGET [ITEM ...]\n"))
    #expect(text.contains("-c, --count N        How often (default: 3)"))
    #expect(text.contains("--colour COLOUR  Which colour (red|green|blue; default: green)"))
    #expect(text.contains("-n, --name NAME      Who ($PAINT_NAME)"))
    #expect(text.contains("-t, --tag TAG        A tag (repeatable)"))
  }

  @Test("fits into 80 columns")
  func width() {
    for line in Help.text(of: paint.spec, program: "msctl", .full).split(separator: "\n") { #expect(line.count <= 80) }
  }
}
