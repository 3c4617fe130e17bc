import Foundation

/// Certificates made at test time, of the authority that the services' own are of.
package final class TestAuthority: Sendable {
  package enum Certificate: String, CaseIterable, Sendable {
    case right, expired, selfSigned, otherHost, oldProtocol
  }

  package let folder: URL
  package var authority: String { Services.certificates + "/ca.pem" }

  package init() async throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent("msctl-tls-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let ca = Services.certificates
    let script = """
      set -e; cd \(folder.path)
      sign() {  # name, host, days
        openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj /CN=$2
        printf 'subjectAltName=DNS:%s\\n' $2 > $1.ext
        openssl x509 -req -in $1.csr -CA \(ca)/ca.pem -CAkey \(ca)/ca.key -set_serial $RANDOM -days $3 -extfile $1.ext -out $1.pem
      }
      sign right localhost 2; sign otherHost other.example 2; sign expired localhost -1; sign client somebody 2
      cp right.pem oldProtocol.pem; cp right.key oldProtocol.key
      openssl req -x509 -newkey rsa:2048 -nodes -keyout selfSigned.key -out selfSigned.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost
      """
    let output = try await RunningProcess("/bin/bash", ["-c", script]).end()
    guard output.status == 0 else { throw TestFailure("no certificates: \(output.err)") }
  }

  deinit {
    try? FileManager.default.removeItem(at: folder)
  }

  package func file(_ name: String) -> String { folder.path + "/" + name }

  /// A server that proves who it is by this certificate, and says "ok" to every request.
  /// - Parameter wantsClient: whether a client must have a certificate, too.
  package func server(
    _ certificate: Certificate, wantsClient: Bool = false
  ) async throws -> (process: RunningProcess, port: Int) {
    let script = """
      import socket, ssl, sys, threading
      c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1], sys.argv[2])
      if sys.argv[4] == '1': c.verify_mode = ssl.CERT_REQUIRED; c.load_verify_locations(sys.argv[3])
      if 'oldProtocol' in sys.argv[1]:
        c.set_ciphers('ALL:@SECLEVEL=0'); c.minimum_version = c.maximum_version = ssl.TLSVersion.TLSv1_1
      s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(16); print(s.getsockname()[1], flush=True)
      def serve(a):
        try:
          a = c.wrap_socket(a, server_side=True); a.recv(65536)
          a.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 4\\r\\nConnection: close\\r\\n\\r\\n"ok"')
          a.close()
        except OSError: pass
      while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
      """
    let name = certificate.rawValue
    let process = try RunningProcess(
      "/usr/bin/env",
      [
        "python3", "-W", "ignore", "-c", script, file(name + ".pem"), file(name + ".key"), authority,
        wantsClient ? "1" : "0",
      ])
    try await eventually("it listens") { process.out.hasSuffix("\n") }
    return (process, Int(process.out.dropLast()) ?? 0)
  }
}
