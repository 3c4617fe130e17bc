// What Debian's libcurl.a refers to and msctl never calls: the functions of librtmp, OpenLDAP, GSS-API and libssh2, whose own
// static libraries are large or do not exist. msctl allows http and https only (CURLOPT_PROTOCOLS_STR), asks for neither
// Negotiate nor NTLM and uses no SOCKS5 proxy with Kerberos, so that each of these is for the linker alone.
//
// Compiled into the static executable only (Makefile). A newer libcurl that refers to more does not link: add its names here.
#include <netdb.h>
#include <nss.h>
#include <openssl/conf.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <unistd.h>

// Each returns a failure, which libcurl reports as an error of its own (tried with curl_easy_perform: sftp, scp, ldap, rtmp and
// Negotiate). Nothing here prints or ends the program. The first function of each library that libcurl calls fails, and libcurl
// calls no other after it.
#define NOTHING(name) \
  void *name(void) { return NULL; }
#define FAILS(name) \
  int name(void) { return -1; }
#define UNAVAILABLE(name) \
  unsigned name(void) { return 16u << 16; }  // GSS_S_UNAVAILABLE

// librtmp: no session, and false.
NOTHING(RTMP_Alloc)
NOTHING(RTMP_Close)
NOTHING(RTMP_Connect1)
NOTHING(RTMP_ConnectStream)
NOTHING(RTMP_Free)
NOTHING(RTMP_Init)
NOTHING(RTMP_Read)
NOTHING(RTMP_SetBufferMS)
NOTHING(RTMP_SetupURL)
NOTHING(RTMP_Write)

// libldap: LDAP_SERVER_DOWN.
FAILS(ldap_abandon_ext)
NOTHING(ldap_free_urldesc)
FAILS(ldap_get_attribute_ber)
FAILS(ldap_get_dn_ber)
FAILS(ldap_init_fd)
NOTHING(ldap_memfree)
NOTHING(ldap_msgfree)
FAILS(ldap_msgtype)
FAILS(ldap_parse_result)
FAILS(ldap_parse_sasl_bind_result)
FAILS(ldap_pvt_url_scheme2proto)
FAILS(ldap_result)
FAILS(ldap_sasl_bind)
FAILS(ldap_search_ext)
FAILS(ldap_set_option)
FAILS(ldap_start_tls)
FAILS(ldap_unbind_ext)
FAILS(ldap_url_parse)
char *ldap_err2string(int error) { return "there is no LDAP in this build"; }

// liblber
NOTHING(ber_bvfree)
NOTHING(ber_free)
NOTHING(ber_memfree)
NOTHING(ber_memvfree)
FAILS(ber_sockbuf_add_io)

// GSS-API
UNAVAILABLE(gss_delete_sec_context)
UNAVAILABLE(gss_display_name)
UNAVAILABLE(gss_display_status)
UNAVAILABLE(gss_import_name)
UNAVAILABLE(gss_init_sec_context)
UNAVAILABLE(gss_inquire_context)
UNAVAILABLE(gss_release_buffer)
UNAVAILABLE(gss_release_name)
UNAVAILABLE(gss_unwrap)
UNAVAILABLE(gss_wrap)

// libssh2: no session, or an error of the socket (LIBSSH2_ERROR_SOCKET_NONE).
FAILS(libssh2_agent_connect)
FAILS(libssh2_agent_disconnect)
FAILS(libssh2_agent_free)
FAILS(libssh2_agent_get_identity)
NOTHING(libssh2_agent_init)
FAILS(libssh2_agent_list_identities)
FAILS(libssh2_agent_userauth)
FAILS(libssh2_channel_free)
FAILS(libssh2_channel_read_ex)
FAILS(libssh2_channel_send_eof)
FAILS(libssh2_channel_wait_closed)
FAILS(libssh2_channel_wait_eof)
FAILS(libssh2_channel_write_ex)
NOTHING(libssh2_hostkey_hash)
FAILS(libssh2_knownhost_add)
FAILS(libssh2_knownhost_checkp)
FAILS(libssh2_knownhost_del)
FAILS(libssh2_knownhost_free)
FAILS(libssh2_knownhost_get)
NOTHING(libssh2_knownhost_init)
FAILS(libssh2_knownhost_readfile)
FAILS(libssh2_knownhost_writefile)
NOTHING(libssh2_scp_recv2)
NOTHING(libssh2_scp_send64)
NOTHING(libssh2_session_abstract)
NOTHING(libssh2_session_block_directions)
NOTHING(libssh2_session_callback_set)
FAILS(libssh2_session_disconnect_ex)
FAILS(libssh2_session_flag)
FAILS(libssh2_session_free)
FAILS(libssh2_session_handshake)
NOTHING(libssh2_session_hostkey)
NOTHING(libssh2_session_init_ex)
FAILS(libssh2_session_last_errno)
FAILS(libssh2_session_last_error)
FAILS(libssh2_session_method_pref)
FAILS(libssh2_session_set_blocking)
FAILS(libssh2_sftp_close_handle)
NOTHING(libssh2_sftp_init)
FAILS(libssh2_sftp_last_error)
FAILS(libssh2_sftp_mkdir_ex)
NOTHING(libssh2_sftp_open_ex)
FAILS(libssh2_sftp_read)
FAILS(libssh2_sftp_readdir_ex)
FAILS(libssh2_sftp_rename_ex)
FAILS(libssh2_sftp_rmdir_ex)
FAILS(libssh2_sftp_seek64)
FAILS(libssh2_sftp_shutdown)
FAILS(libssh2_sftp_stat_ex)
FAILS(libssh2_sftp_statvfs)
FAILS(libssh2_sftp_symlink_ex)
FAILS(libssh2_sftp_unlink_ex)
FAILS(libssh2_sftp_write)
NOTHING(libssh2_userauth_authenticated)
FAILS(libssh2_userauth_keyboard_interactive_ex)
NOTHING(libssh2_userauth_list)
FAILS(libssh2_userauth_password_ex)
FAILS(libssh2_userauth_publickey_fromfile_ex)

// Called by curl_global_init: 0 is success.
int libssh2_init(int flags) { return 0; }
void libssh2_exit(void) {}
// Called by curl_version_info.
const char *libssh2_version(int required) { return NULL; }
// Called by curl_version, which goes on where it fails.
int ldap_get_option(void *handle, int option, void *value) { return -1; }
// An object identifier, compared by nobody.
void *GSS_C_NT_HOSTBASED_SERVICE = NULL;

// Of Swift's runtime: the arguments that CommandLine has, in place of those in /proc/self/cmdline.
extern void _swift_stdlib_overrideUnsafeArgvArgc(char **arguments, int count);

// Before everything else, the runtimes' own beginnings included. The C library gives it main's arguments.
static __attribute__((constructor(101))) void begin(int count, char **arguments) {
  _swift_stdlib_overrideUnsafeArgvArgc(arguments, count);
  // Where there is no /proc to read its own path from, Swift's runtime aborts unless it is told.
  if (access("/proc/self/exe", F_OK) != 0) setenv("SWIFT_ROOT", "/", 0);
  // getaddrinfo would load the modules of nsswitch.conf from the machine that this file runs on, which may be of another C
  // library. Files and DNS are inside.
  __nss_configure_lookup("hosts", "files dns");
}

// OpenSSL reads its configuration file when libcurl is set up, which takes longer than a call does otherwise; only TLS needs it.
// shim.h has what calls these.
void msctl_defer_tls_settings(void) { OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL); }

void msctl_load_tls_settings(void) {
  static int is_loaded;
  if (is_loaded) return;
  is_loaded = 1;
  // As OpenSSL itself does.
  CONF_modules_load_file(
      NULL, NULL, CONF_MFLAGS_DEFAULT_SECTION | CONF_MFLAGS_IGNORE_MISSING_FILE | CONF_MFLAGS_IGNORE_RETURN_CODES);
}
