/// What many calls have in common, and the driver of their directory: it carries out the look-ups.
package final class DirectoryDriver {
  /// What people may want to know.
  package enum Note {
    case directory(ServiceDirectory.Note)
    /// - Parameter url: of the request.
    case call(ServiceCall.Note, url: String)
  }

  package let http: HTTPClient
  package var directory: ServiceDirectory
  /// For the actions of a call, so that not each has an array of its own.
  var actions: [ServiceCall.Action] = []
  let note: (Note) -> Void
  private let agent: ConsulAgent
  private let selection: ConsulAgent.Selection
  private var lookUps: [(name: String, lookUp: ConsulLookUp)] = []
  private var told: [(number: Int, result: Result<[ServiceInstance], LookUpFailure>)] = []
  private var generator = SplitMix()

  package init(
    _ options: ServiceDirectory.Options, _ agent: ConsulAgent, _ selection: ConsulAgent.Selection,
    over http: HTTPClient, note: @escaping (Note) -> Void = { _ in }
  ) {
    (self.agent, self.selection, self.http, self.note) = (agent, selection, http, note)
    directory = ServiceDirectory(options, SplitMix(seed: generator.next()))
  }

  /// Random numbers for one call.
  package func split() -> SplitMix { SplitMix(seed: generator.next()) }

  /// When it goes on even if nothing comes.
  package var wakeTime: Deadline {
    told.isEmpty ? lookUps.reduce(directory.wakeTime) { min($0, $1.lookUp.wakeTime) } : .now
  }

  /// Looks a service up for a call.
  package func want(_ name: String, by number: Int, until deadline: Deadline) {
    handle(.wanted(name, by: number, until: deadline))
  }

  /// Moves the look-ups on.
  /// - Returns: what they found, for the calls with these numbers.
  package func takeLookUps() -> [(number: Int, result: Result<[ServiceInstance], LookUpFailure>)] {
    if directory.wakeTime.isPast { handle(.tick) }
    // A look-up that ends may begin another.
    let running = lookUps
    for (name, lookUp) in running {
      do {
        guard let found = try lookUp.take() else { continue }
        lookUps.removeAll { $0.lookUp === lookUp }
        handle(.found(name, found))
      } catch {
        lookUps.removeAll { $0.lookUp === lookUp }
        handle(.failed(name, error))
      }
    }
    defer { told = [] }
    return told
  }

  private func handle(_ event: ServiceDirectory.Event) {
    var actions: [ServiceDirectory.Action] = []
    directory.handle(event, at: .now, into: &actions)
    for action in actions {
      switch action {
      case .lookUp(let name, let deadline):
        do { lookUps.append((name, try agent.beginInstances(of: name, selection, until: deadline))) } catch {
          handle(.failed(name, error))
        }
      case .tell(let numbers, let result): told += numbers.map { ($0, result) }
      case .note(let note): self.note(.directory(note))
      }
    }
  }
}
