/// A type that has a value before any option is read. The values of its fields are the defaults, and stand nowhere else.
package protocol Defaulted: Sendable {
  init()
}

/// Where a value lands, as a row of a table names it. The key path is made only when the row is used: to make all of a table
/// would take longer than most of what a short command does.
package typealias Field<Root, Value> = @Sendable () -> any WritableKeyPath<Root, Value> & Sendable

/// An option: its words, and where its value lands.
package struct Flag<Options: Sendable>: Sendable {
  package var spec: FlagSpec
  package let apply: @Sendable (inout Options, String) throws(ValueError) -> Void

  package init(spec: FlagSpec, apply: @escaping @Sendable (inout Options, String) throws(ValueError) -> Void) {
    self.spec = spec
    self.apply = apply
  }

  /// An option of a shared group, as an option of the whole that holds the group.
  package func lifted<Whole>(to group: @escaping @autoclosure Field<Whole, Options>) -> Flag<Whole> {
    var spec = spec
    spec.isBrief = true
    return Flag<Whole>(spec: spec) { (whole, word) throws(ValueError) in
      try apply(&whole[keyPath: group()], word)
    }
  }

  package func details(_ text: String) -> Self { with { $0.details = text } }
  package func variable(_ name: String) -> Self { with { $0.variable = name } }
  /// Where it is written, the variable of this other option is not read.
  package func unsets(variableOf long: String) -> Self { with { $0.unsets = long } }
  /// It is seldom wanted.
  package func brief() -> Self { with { $0.isBrief = true } }
  package func secret() -> Self { with { $0.secret = true } }
  package func completed(by completion: Completion) -> Self { with { $0.completion = completion } }

  private func with(_ change: (inout FlagSpec) -> Void) -> Self {
    var flag = self
    change(&flag.spec)
    return flag
  }
}

extension Flag where Options: Defaulted {
  /// A switch: its field becomes `value` when it is written.
  package static func toggle(
    _ long: String, _ short: Unicode.Scalar?, into field: @escaping @autoclosure Field<Options, Bool>,
    to value: Bool = true,
    _ summary: String
  ) -> Self {
    Flag(spec: FlagSpec(long: long, short: short, summary: summary)) { (options, _) throws(ValueError) in
      options[keyPath: field()] = value
    }
  }

  /// A switch: its field becomes `value`, or what is attached to it.
  package static func toggle<V: ArgumentValue & Sendable>(
    _ long: String, attaching attachment: String, into field: @escaping @autoclosure Field<Options, V?>, to value: V,
    _ summary: String
  ) -> Self {
    var spec = FlagSpec(long: long, short: nil, summary: summary)
    spec.attachment = attachment
    return Flag(spec: spec) { (options, word) throws(ValueError) in
      options[keyPath: field()] = word.utf8.isEmpty ? value : try V(argument: word)
    }
  }

  /// An option with a value; the last one written counts.
  package static func value<V: ArgumentValue>(
    _ long: String, _ short: Unicode.Scalar?, _ name: String,
    into field: @escaping @autoclosure Field<Options, V>, _ summary: String
  ) -> Self {
    let spec = FlagSpec(
      long: long, short: short, valueName: name, summary: summary,
      makeDefault: { Options()[keyPath: field()].argumentText }, completion: V.completion)
    return Flag(spec: spec) { (options, word) throws(ValueError) in
      options[keyPath: field()] = try V(argument: word)
    }
  }

  /// A whole number within bounds, which help and the error name.
  package static func number(
    _ long: String, _ short: Unicode.Scalar?, _ name: String, in range: ClosedRange<Int>,
    into field: @escaping @autoclosure Field<Options, Int>, _ summary: String
  ) -> Self {
    let spec = FlagSpec(
      long: long, short: short, valueName: name, summary: summary,
      makeDefault: { Options()[keyPath: field()].argumentText })
    return Flag(spec: spec) { (options, word) throws(ValueError) in
      options[keyPath: field()] = try bounded(word, range)
    }
  }

  /// As `number`, for a field that may have no value.
  package static func number(
    _ long: String, _ short: Unicode.Scalar?, _ name: String, in range: ClosedRange<Int>,
    into field: @escaping @autoclosure Field<Options, Int?>, _ summary: String
  ) -> Self {
    Flag(spec: FlagSpec(long: long, short: short, valueName: name, summary: summary)) {
      (options, word) throws(ValueError) in
      options[keyPath: field()] = try bounded(word, range)
    }
  }

  /// An option that may be written many times; each use adds a value.
  package static func list<V: ArgumentValue>(
    _ long: String, _ short: Unicode.Scalar?, _ name: String,
    into field: @escaping @autoclosure Field<Options, [V]>, _ summary: String
  ) -> Self {
    let spec = FlagSpec(
      long: long, short: short, valueName: name, summary: summary, repeats: true, completion: V.completion)
    return Flag(spec: spec) { (options, word) throws(ValueError) in
      options[keyPath: field()].append(try V(argument: word))
    }
  }
}

extension Array {
  /// The same options under one heading of help.
  package func under<Options>(_ category: String) -> [Flag<Options>] where Element == Flag<Options> {
    map { flag in
      var flag = flag
      flag.spec.category = category
      return flag
    }
  }

  package func lifted<Whole, Group>(
    to group: @escaping @autoclosure Field<Whole, Group>
  ) -> [Flag<Whole>] where Element == Flag<Group> {
    map { $0.lifted(to: group()) }
  }
}

private func bounded(_ word: String, _ range: ClosedRange<Int>) throws(ValueError) -> Int {
  let number = try Int(argument: word)
  guard range.contains(number) else {
    throw ValueError(
      range.upperBound == .max
        ? "must be \(range.lowerBound) or more" : "must be between \(range.lowerBound) and \(range.upperBound)")
  }
  return number
}
