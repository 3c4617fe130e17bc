import CCurl
import CRabbitMQ

/// The version of msctl and of the libraries that it runs with.
package enum Version {
  package static let msctl = "0.1.0"
  /// The day of this version, which stands in the man pages.
  package static let date = "2026-11-23"

  /// libcurl and what it is built on, in the form of curl_version(3). That function itself asks libraries that the static
  /// executable does not have (https://curl.se/libcurl/c/curl_version_info.html).
  package static var curl: String {
    guard let info = msctl_version_info()?.pointee else { return "libcurl" }
    let parts = [
      ("libcurl/", info.version), ("", info.ssl_version), ("zlib/", info.libz_version),
      ("brotli/", info.brotli_version),
      ("zstd/", info.zstd_version), ("libidn2/", info.libidn), ("nghttp2/", info.nghttp2_version),
    ]
    return parts.compactMap { name, version in version.map { name + String(cString: $0) } }.joined(separator: " ")
  }
  /// The version of libcurl as 0xXXYYZZ.
  package static var curlNumber: UInt32 { msctl_version_info()?.pointee.version_num ?? 0 }
  package static var rabbitMQ: String { String(cString: amqp_version()) }
}
