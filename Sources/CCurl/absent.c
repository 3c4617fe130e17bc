// What Debian's libcurl.a refers to and msctl never calls: the functions of librtmp, OpenLDAP, GSS-API and libssh2, whose own
// static libraries are large or do not exist. msctl allows http and https only (CURLOPT_PROTOCOLS_STR), asks for neither
// Negotiate nor NTLM and uses no SOCKS5 proxy with Kerberos, so that each of these is for the linker alone. One that is called
// nonetheless ends msctl with its name.
//
// Compiled into the static executable only (Makefile). A newer libcurl that refers to more does not link: add its names here.
#include <netdb.h>
#include <nss.h>
#include <openssl/conf.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Noreturn void absent(const char *name) {
  dprintf(STDERR_FILENO, "msctl: this build has no %s (a defect: nothing of msctl needs it)\n", name);
  _exit(1);
}

#define ABSENT(name) \
  void name(void) { absent(#name); }

// librtmp
ABSENT(RTMP_Alloc)
ABSENT(RTMP_Close)
ABSENT(RTMP_Connect1)
ABSENT(RTMP_ConnectStream)
ABSENT(RTMP_Free)
ABSENT(RTMP_Init)
ABSENT(RTMP_Read)
ABSENT(RTMP_SetBufferMS)
ABSENT(RTMP_SetupURL)
ABSENT(RTMP_Write)

// libldap
ABSENT(ldap_abandon_ext)
ABSENT(ldap_err2string)
ABSENT(ldap_free_urldesc)
ABSENT(ldap_get_attribute_ber)
ABSENT(ldap_get_dn_ber)
ABSENT(ldap_init_fd)
ABSENT(ldap_memfree)
ABSENT(ldap_msgfree)
ABSENT(ldap_msgtype)
ABSENT(ldap_parse_result)
ABSENT(ldap_parse_sasl_bind_result)
ABSENT(ldap_pvt_url_scheme2proto)
ABSENT(ldap_result)
ABSENT(ldap_sasl_bind)
ABSENT(ldap_search_ext)
ABSENT(ldap_set_option)
ABSENT(ldap_start_tls)
ABSENT(ldap_unbind_ext)
ABSENT(ldap_url_parse)

// liblber
ABSENT(ber_bvfree)
ABSENT(ber_free)
ABSENT(ber_memfree)
ABSENT(ber_memvfree)
ABSENT(ber_sockbuf_add_io)

// GSS-API
ABSENT(gss_delete_sec_context)
ABSENT(gss_display_name)
ABSENT(gss_display_status)
ABSENT(gss_import_name)
ABSENT(gss_init_sec_context)
ABSENT(gss_inquire_context)
ABSENT(gss_release_buffer)
ABSENT(gss_release_name)
ABSENT(gss_unwrap)
ABSENT(gss_wrap)

// libssh2
ABSENT(libssh2_agent_connect)
ABSENT(libssh2_agent_disconnect)
ABSENT(libssh2_agent_free)
ABSENT(libssh2_agent_get_identity)
ABSENT(libssh2_agent_init)
ABSENT(libssh2_agent_list_identities)
ABSENT(libssh2_agent_userauth)
ABSENT(libssh2_channel_free)
ABSENT(libssh2_channel_read_ex)
ABSENT(libssh2_channel_send_eof)
ABSENT(libssh2_channel_wait_closed)
ABSENT(libssh2_channel_wait_eof)
ABSENT(libssh2_channel_write_ex)
ABSENT(libssh2_hostkey_hash)
ABSENT(libssh2_knownhost_add)
ABSENT(libssh2_knownhost_checkp)
ABSENT(libssh2_knownhost_del)
ABSENT(libssh2_knownhost_free)
ABSENT(libssh2_knownhost_get)
ABSENT(libssh2_knownhost_init)
ABSENT(libssh2_knownhost_readfile)
ABSENT(libssh2_knownhost_writefile)
ABSENT(libssh2_scp_recv2)
ABSENT(libssh2_scp_send64)
ABSENT(libssh2_session_abstract)
ABSENT(libssh2_session_block_directions)
ABSENT(libssh2_session_callback_set)
ABSENT(libssh2_session_disconnect_ex)
ABSENT(libssh2_session_flag)
ABSENT(libssh2_session_free)
ABSENT(libssh2_session_handshake)
ABSENT(libssh2_session_hostkey)
ABSENT(libssh2_session_init_ex)
ABSENT(libssh2_session_last_errno)
ABSENT(libssh2_session_last_error)
ABSENT(libssh2_session_method_pref)
ABSENT(libssh2_session_set_blocking)
ABSENT(libssh2_sftp_close_handle)
ABSENT(libssh2_sftp_init)
ABSENT(libssh2_sftp_last_error)
ABSENT(libssh2_sftp_mkdir_ex)
ABSENT(libssh2_sftp_open_ex)
ABSENT(libssh2_sftp_read)
ABSENT(libssh2_sftp_readdir_ex)
ABSENT(libssh2_sftp_rename_ex)
ABSENT(libssh2_sftp_rmdir_ex)
ABSENT(libssh2_sftp_seek64)
ABSENT(libssh2_sftp_shutdown)
ABSENT(libssh2_sftp_stat_ex)
ABSENT(libssh2_sftp_statvfs)
ABSENT(libssh2_sftp_symlink_ex)
ABSENT(libssh2_sftp_unlink_ex)
ABSENT(libssh2_sftp_write)
ABSENT(libssh2_userauth_authenticated)
ABSENT(libssh2_userauth_keyboard_interactive_ex)
ABSENT(libssh2_userauth_list)
ABSENT(libssh2_userauth_password_ex)
ABSENT(libssh2_userauth_publickey_fromfile_ex)

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
