import MsctlCore

/// A line on a terminal that shows how far a long run is; nothing where standard error is no terminal.
struct Progress {
  private static let interval: Duration = .milliseconds(200)

  private let console: Console
  private let isShown: Bool
  private var next: Deadline
  private var isVisible = false

  init(_ console: Console) {
    self.console = console
    isShown = console.showsProgress
    next = .after(Self.interval)
  }

  mutating func show(_ text: @autoclosure () -> String) {
    guard isShown, next.isPast else { return }
    next = .after(Self.interval)
    isVisible = true
    console.progress(text())
  }

  /// Makes room for other text.
  mutating func clear() {
    if isVisible { console.progress("") }
    isVisible = false
  }
}
