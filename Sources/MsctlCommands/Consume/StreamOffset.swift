import CommandTable
import Glibc
import MsctlCore

/// Where in a stream to begin (https://www.rabbitmq.com/docs/streams#consuming).
enum StreamOffset: ArgumentValue, Equatable {
  case word(String)
  case number(Int64)
  /// In seconds since 1970. A broker begins with the chunk of that time, so that a few older messages may come.
  case timestamp(UInt64)

  init(argument: String) throws(ValueError) {
    if ["first", "last", "next"].contains(argument) {
      self = .word(argument)
    } else if let number = Int64(argument), number >= 0 {
      self = .number(number)
    } else if let digits = argument.rest(after: "@"), let seconds = UInt64(digits) {
      self = .timestamp(seconds)
    } else if let text = argument.rest(after: "-"), let time = try? Duration(argument: String(text)) {
      self = .timestamp(UInt64(clamping: unixTime() - Int64(clamping: time.milliseconds / 1000)))
    } else if let seconds = secondsSince1970(argument) {
      self = .timestamp(UInt64(clamping: seconds))
    } else {
      throw ValueError(
        "is not one of first, last, next, a number, -TIME such as -5m, a date such as 2026-01-31T09:30:00Z and @SECONDS (since 1970)"
      )
    }
  }

  var argumentText: String? { nil }

  var value: AMQPValue {
    switch self {
    case .word(let word): .string(word)
    case .number(let number): .integer(number)
    case .timestamp(let seconds): .timestamp(seconds)
    }
  }
}

/// The time that a text of RFC 3339 (section 5.6) names, in whole seconds since 1970; nil where it is none.
func secondsSince1970(_ text: String) -> Int64? {
  var rest = Array(text.utf8)[...]
  func number(_ digits: Int, in range: ClosedRange<Int32>) -> Int32? {
    let part = rest.prefix(digits)
    guard part.count == digits, part.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
    rest = rest.dropFirst(digits)
    let number = part.reduce(0) { $0 * 10 + Int32(clamping: $1 - 0x30) }
    return range.contains(number) ? number : nil
  }
  func take(_ signs: String) -> UInt8? {
    guard let sign = rest.first, signs.utf8.contains(sign) else { return nil }
    rest = rest.dropFirst()
    return sign
  }
  guard let year = number(4, in: 1970...9999), take("-") != nil, let month = number(2, in: 1...12), take("-") != nil,
    let day = number(2, in: 1...31), take("Tt ") != nil, let hour = number(2, in: 0...23), take(":") != nil,
    let minute = number(2, in: 0...59), take(":") != nil, let second = number(2, in: 0...60)
  else { return nil }
  if take(".") != nil {
    let fraction = rest.prefix { (0x30...0x39).contains($0) }
    guard !fraction.isEmpty else { return nil }
    rest = rest.dropFirst(fraction.count)
  }
  guard let zone = take("Zz+-") else { return nil }
  var shift: Int32 = 0
  if zone == UInt8(ascii: "+") || zone == UInt8(ascii: "-") {
    guard let hours = number(2, in: 0...23), take(":") != nil, let minutes = number(2, in: 0...59) else { return nil }
    shift = (hours * 60 + minutes) * (zone == UInt8(ascii: "-") ? -60 : 60)
  }
  guard rest.isEmpty else { return nil }
  var time = tm()
  (time.tm_year, time.tm_mon, time.tm_mday) = (year - 1900, month - 1, day)
  (time.tm_hour, time.tm_min, time.tm_sec) = (hour, minute, second)
  let seconds = timegm(&time)
  // The 31st of a month that has none would be another day.
  guard time.tm_mday == day || second == 60 else { return nil }
  return Int64(clamping: seconds - Int(clamping: shift))
}
