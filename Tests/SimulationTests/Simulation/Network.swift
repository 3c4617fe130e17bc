import MsctlCore

/// The time of a world, and what is going to happen in it.
package final class Timeline {
  package private(set) var now = Clock.start
  private var agenda = Agenda<() -> Void>()

  package init() {}

  package func after(_ delay: Duration, _ happening: @escaping () -> Void) { agenda.add(happening, at: now + delay) }

  package func at(_ time: Deadline, _ happening: @escaping () -> Void) { agenda.add(happening, at: max(time, now)) }

  /// When the next thing happens.
  package var next: Deadline { agenda.next }

  /// Lets the next thing happen that is due by then; else time passes to then.
  package func advance(to time: Deadline) {
    if agenda.next <= time,
      let happening = {
        now = max(now, agenda.next); return agenda.popFirst()
      }()
    {
      happening()
    } else {
      now = max(now, time)
    }
  }
}

/// One direction of a connection: what is sent arrives in its order, after a while, until the connection is cut.
package final class Pipe<Item> {
  private let timeline: Timeline
  private let arrive: (Item) -> Void
  private var sent = 0
  private var arrived = 0
  fileprivate var lastArrival: Deadline
  /// How many items arrive at all; nil: all.
  private var limit: Int?

  init(_ timeline: Timeline, _ arrive: @escaping (Item) -> Void) {
    self.timeline = timeline
    self.arrive = arrive
    lastArrival = timeline.now
  }

  func send(_ item: Item, _ delay: Duration) {
    guard limit == nil else { return }
    let number = sent
    sent += 1
    lastArrival = max(lastArrival, timeline.now + delay)
    timeline.at(lastArrival) { [self] in
      guard number < limit ?? .max else { return }
      arrived += 1
      arrive(item)
    }
  }

  /// How many items are under way.
  var underWay: Int { min(sent, limit ?? .max) - arrived }

  /// Of what is under way only so many items still arrive.
  func cut(after count: Int) { limit = min(limit ?? .max, arrived + min(count, underWay)) }
}

/// A connection between a client and the broker, over a network that may be slow, cut, or dead without a word.
package final class Link {
  package let id: UInt64
  fileprivate(set) var toBroker: Pipe<AMQPMethod>
  fileprivate(set) var toClient: Pipe<AMQPEvent>
  /// Whether the client has been told of its end, or has closed it.
  package fileprivate(set) var isOver = false
  package fileprivate(set) var isCut = false
  /// Whether the broker's side knows, so that it answers what is sent with a reset.
  package fileprivate(set) var isReset = false
  /// What arrives at the client: an event, or the end of the connection.
  package var onEvent: (AMQPEvent) -> Void = { _ in }
  package var onLoss: (AMQPError) -> Void = { _ in }

  init(_ id: UInt64, _ toBroker: Pipe<AMQPMethod>, _ toClient: Pipe<AMQPEvent>) {
    (self.id, self.toBroker, self.toClient) = (id, toBroker, toClient)
  }
}

/// The network between one client and the simulated broker.
package final class Network {
  package let timeline: Timeline
  package let choices: Choices
  package let story: Story
  package let broker: SimulatedBroker
  private var links = 0
  /// The greatest delay of one item, in milliseconds.
  private let delay: Int

  package init(_ timeline: Timeline, _ choices: Choices, _ story: Story, _ broker: SimulatedBroker) {
    (self.timeline, self.choices, self.story, self.broker) = (timeline, choices, story, broker)
    delay = choices.pick(from: [1, 5, 50])
  }

  /// A connection whose channel is open.
  package func open() -> Link {
    links += 1
    let id = UInt64(links)
    var link: Link?
    let toBroker = Pipe<AMQPMethod>(timeline) { [self] method in
      broker.take(method, on: id)
    }
    let toClient = Pipe<AMQPEvent>(timeline) { event in
      guard let link, !link.isOver else { return }
      link.onEvent(event)
    }
    let made = Link(id, toBroker, toClient)
    link = made
    broker.open(
      id,
      send: { [self] event in made.toClient.send(event, choices.time(delay)) },
      close: { [self] error in
        // What was sent before still comes, then the close.
        let last = timeline.now + choices.time(delay)
        made.isCut = true
        made.toBroker.cut(after: 0)
        timeline.at(max(last, made.toClient.lastTime)) { [self] in lose(made, error) }
      })
    return made
  }

  package func send(_ method: AMQPMethod, on link: Link) {
    guard !link.isOver else { return }
    if case .openChannel = method {
      // The broker has closed the channel, and takes a new one on the same connection.
      link.isCut = false
      link.toBroker = Pipe(timeline) { [self] method in broker.take(method, on: link.id) }
      broker.reopen(link.id)
    }
    link.toBroker.send(method, choices.time(delay))
  }

  /// The client closes the connection in good order, after all that it has sent, and hears of that; unless it breaks meanwhile.
  package func close(_ link: Link, _ closed: @escaping () -> Void) {
    guard !link.isOver, !link.isCut else { return }
    timeline.at(link.toBroker.lastTime) { [self] in
      guard !link.isCut else { return }
      broker.close(link.id, isClean: true)
      link.isCut = true
      timeline.after(choices.time(delay)) {
        guard !link.isOver else { return }
        link.isOver = true
        closed()
      }
    }
  }

  /// The connection breaks: a part of what is under way is lost, and each side notices it in its time.
  /// - Parameter isPrompt: whether both sides notice at once.
  package func cut(_ link: Link, _ reason: String = "reset by peer", isPrompt: Bool = false) {
    guard !link.isCut, !link.isOver else { return }
    link.isCut = true
    link.toBroker.cut(after: choices.pick(link.toBroker.underWay + 1))
    link.toClient.cut(after: isPrompt ? 0 : choices.pick(link.toClient.underWay + 1))
    story.tell(timeline.now, "-- the connection is cut")
    let (here, there) = isPrompt ? (.zero, .zero) : (silence, silence)
    timeline.at(max(timeline.now + here, link.toClient.lastTime)) { [self] in
      lose(link, AMQPError(kind: .broken, reason: reason))
    }
    timeline.at(max(timeline.now + there, link.toBroker.lastTime)) { [self] in
      broker.close(link.id, isClean: false)
      link.isReset = true
    }
  }

  /// How long a side takes to notice: at once or, where nothing comes at all, two heartbeats.
  private var silence: Duration { choices.chance(20) ? .seconds(choices.pick(1...20)) : choices.time(delay) }

  private func lose(_ link: Link, _ error: AMQPError) {
    guard !link.isOver else { return }
    if case .channelClosed = error.kind {} else { link.isOver = true }
    link.onLoss(error)
  }
}

extension Pipe {
  /// When the last thing arrives that is under way.
  var lastTime: Deadline { lastArrival }
}
