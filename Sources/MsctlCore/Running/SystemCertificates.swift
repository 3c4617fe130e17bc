import Glibc

/// The CA certificates that this machine trusts. libcurl and librabbitmq know the place of the machine that they were built on,
/// if any; the static executable runs on all.
struct SystemCertificates: Equatable {
  /// A file of certificates in PEM form.
  var file: String?
  /// Folders of certificates, each under the hash of its subject, separated by ':'
  /// (https://docs.openssl.org/3.0/man3/SSL_CTX_load_verify_locations/).
  var folder: String?

  /// Debian, Ubuntu, Alpine and Arch; Red Hat and Fedora; Fedora without its older links; SUSE; Alpine without ca-certificates.
  private static let files = [
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
  ]
  private static let hashedFolder = "/etc/ssl/certs"

  /// Looked for once, when TLS first needs it.
  static let found = find { getenv($0).map { String(cString: $0) } }

  /// What to do where there are none.
  static let missing = "this machine has no CA certificates; install ca-certificates or set SSL_CERT_FILE"

  /// By OpenSSL's own variables, else in the usual places; nil where there is none.
  static func find(_ environment: (String) -> String?) -> SystemCertificates? {
    func named(_ name: String) -> String? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }
    let chosen = SystemCertificates(file: named("SSL_CERT_FILE"), folder: named("SSL_CERT_DIR"))
    if chosen != SystemCertificates() { return chosen }
    if let file = files.first(where: { access($0, R_OK) == 0 }) { return SystemCertificates(file: file) }
    var matches = glob_t()
    defer { globfree(&matches) }
    return glob(hashedFolder + "/*.0", 0, nil, &matches) == 0 ? SystemCertificates(folder: hashedFolder) : nil
  }
}
