import CCurl

/// `host:port` as it stands in a URL: an IPv6 address in brackets (RFC 3986, section 3.2.2).
package func hostPort(_ host: String, _ port: Int) -> String {
  (host.holds(":") && !host.begins(with: "[") ? "[\(host)]" : host) + ":\(port)"
}

/// The parts of a URL, as libcurl reads them (https://curl.se/libcurl/c/curl_url_get.html).
package struct URLParts: Equatable {
  package let scheme: String
  package let host: String
  package let port: Int
  /// Path and query, as they are sent.
  package let target: String
  package let user: String?
  package let password: String?

  package init(_ url: String) throws(HTTPError) {
    let handle = curl_url()
    defer { curl_url_cleanup(handle) }
    let code = curl_url_set(handle, CURLUPART_URL, url, UInt32(CURLU_NON_SUPPORT_SCHEME))
    guard code == CURLUE_OK else {
      throw HTTPError(kind: .malformedURL, reason: String(cString: curl_url_strerror(code)).lowercasedASCII)
    }
    func part(_ part: CURLUPart, _ flags: Int32 = 0) -> String? {
      var text: UnsafeMutablePointer<CChar>?
      guard curl_url_get(handle, part, &text, UInt32(bitPattern: flags)) == CURLUE_OK, let text else { return nil }
      defer { curl_free(text) }
      return String(cString: text)
    }
    scheme = part(CURLUPART_SCHEME) ?? ""
    host = part(CURLUPART_HOST) ?? ""
    port = part(CURLUPART_PORT, CURLU_DEFAULT_PORT).flatMap { Int($0) } ?? 0
    target = (part(CURLUPART_PATH) ?? "/") + (part(CURLUPART_QUERY).map { "?" + $0 } ?? "")
    user = part(CURLUPART_USER, CURLU_URLDECODE)
    password = part(CURLUPART_PASSWORD, CURLU_URLDECODE)
  }

  /// Whether a credential for the one may be sent to the other (RFC 6454).
  package func hasSameOrigin(as other: URLParts) -> Bool {
    scheme.isSame(as: other.scheme) && host.lowercasedASCII.isSame(as: other.host.lowercasedASCII) && port == other.port
  }
}
