import CCurl
import CRabbitMQ

/// The version of msctl and of the libraries that it runs with.
package enum Version {
  package static let msctl = "0.1.0"
  /// The day of this version, which stands in the man pages.
  package static let date = "2026-11-23"

  package static var curl: String { String(cString: curl_version()) }
  package static var rabbitMQ: String { String(cString: amqp_version()) }
}
