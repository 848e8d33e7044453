"""Why is there no option for this directive?

One table over names and beginnings of names; `remark` puts the reason into the notes. What stands in none of them is
left out too, and said to be unknown here, so that no directive is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fairlead.nginx.notes import Notes
from fairlead.nginx.tree import Directive

ACCESS: Final = "decides who may come in, and Fairlead does not: whoever reaches its address is served"

IMPORTANT: Final[Mapping[str, str]] = {
    "auth_basic": ACCESS,
    "auth_basic_user_file": ACCESS,
    "auth_request": ACCESS,
    "auth_jwt": ACCESS,
    "allow": ACCESS,
    "deny": ACCESS,
    "satisfy": ACCESS,
    "secure_link": ACCESS,
    "valid_referer": ACCESS,
    "limit_except": ACCESS,
    "limit_req": "limits a client's rate, and Fairlead does not: only backends[].max_connections and limits.* hold",
    "limit_conn": "limits a client's connections, and Fairlead limits only all of them (limits.connections)",
    "internal": "hides the location from clients, and a route of Fairlead is open to them",
    "ssl_crl": "revokes certificates of clients, and Fairlead reads no such list",
    "proxy_ssl_crl": "revokes certificates of backends, and Fairlead reads no such list",
}

LEFT_OUT: Final[Mapping[str, str]] = {
    "limit_req_zone": "rates of clients are not limited",
    "limit_req_status": "rates of clients are not limited",
    "limit_conn_zone": "connections of one client are not counted",
    "limit_rate": "answers are not slowed down",
    "limit_rate_after": "answers are not slowed down",
    "rewrite": "paths are not rewritten; routes[].strip takes a beginning away",
    "return": "Fairlead gives no answers of its own but errors",
    "if": "there are no conditions; routes choose by the path's beginning alone",
    "set": "there are no variables",
    "map": "there are no variables to map",
    "geo": "there are no variables by address",
    "split_clients": "requests are not split by chance; `shadow` compares two policies on the same traffic",
    "error_page": "errors are answered as the OpenAI or Anthropic API has them",
    "try_files": "no files are served",
    "root": "no files are served",
    "alias": "no files are served",
    "index": "no files are served",
    "autoindex": "no files are served",
    "expires": "headers of answers are passed on as they are",
    "add_header": "headers of answers are passed on as they are",
    "more_set_headers": "headers of answers are passed on as they are",
    "proxy_hide_header": "headers of answers are passed on as they are",
    "proxy_pass_header": "headers of answers are passed on as they are",
    "proxy_cookie_path": "headers of answers are passed on as they are",
    "proxy_cookie_domain": "headers of answers are passed on as they are",
    "proxy_redirect": "headers of answers are passed on as they are",
    "proxy_set_body": "bodies are passed on as they are",
    "proxy_method": "methods are passed on as they are",
    "proxy_bind": "the system chooses the address from which backends are reached",
    "proxy_pass_request_headers": "headers are always passed on",
    "proxy_pass_request_body": "bodies are always passed on",
    "proxy_limit_rate": "answers are not slowed down",
    "proxy_intercept_errors": "an engine's own errors are passed on",
    "proxy_ignore_client_abort": "a request ends when its client leaves, so that the GPU is free",
    "resolver": "names of backends are looked up by the system when a connection is made",
    "resolver_timeout": "names of backends are looked up by the system when a connection is made",
    "client_header_buffer_size": "there is one bound for the whole head, limits.head",
    "ssl_password_file": "keys must have no passphrase",
    "ssl_reject_handshake": "a client that asks for an unknown name gets the first certificate",
    "ssl_trusted_certificate": "clients' certificates are checked by ssl_client_certificate alone",
    "ssl_conf_command": "OpenSSL's own settings hold",
    "proxy_ssl_verify_depth": "the depth of chains is OpenSSL's own",
    "proxy_ssl_password_file": "keys must have no passphrase",
    "proxy_ssl_protocols": "Python's choice for TLS to backends holds, version 1.2 or later",
    "proxy_ssl_ciphers": "Python's choice for TLS to backends holds",
    "keepalive_time": "a connection to a backend ends by keepalive.requests or keepalive.timeout",
    "keepalive_min_timeout": "client connections are kept for timeouts.client_idle",
    "keepalive_disable": "every client's connection is kept open as it asks",
    "lingering_close": "how long a refused client is read from is fixed",
    "status_zone": "metrics are on the admin address for all backends",
    "stub_status": "metrics are on the admin address, at /metrics",
    "mirror": "requests are not sent twice",
    "sub_filter": "answers are passed on as they are",
    "health_check": "backends are probed by themselves: health.interval, .rise and .fall",
    "open_log_file_cache": "the access log stays open",
    "log_subrequest": "there are no subrequests",
    "ntlm": "connections are not bound to one client",
    "queue": "a request waits for a backend when all are full, by its own rules",
    "state": "backends are changed in the config file or the admin API",
    "proxy_store": "nothing is written to disk",
    "proxy_send_lowat": "the system decides when data is sent",
    "proxy_force_ranges": "answers are passed on as they are",
    "proxy_ignore_headers": "headers of answers have no effect on Fairlead",
    "proxy_cookie_flags": "headers of answers are passed on as they are",
    "sticky_cookie_insert": "no cookies are set; the session policy reads the cookie of an application",
    "user": "the system's service manager chooses the user",
    "worker_processes": "Fairlead has its own number of processes",
    "worker_connections": "limits.connections is for client connections alone",
    "load_module": "modules of nginx do not work here",
    "error_log": "Fairlead's own messages go to standard error",
    "stream": "only HTTP is balanced",
    "mail": "only HTTP is balanced",
    "perl": "Perl in nginx does not work here",
    "grpc_pass": "backends speak HTTP/1.1; gRPC is not balanced",
    "fastcgi_pass": "backends speak HTTP/1.1",
    "uwsgi_pass": "backends speak HTTP/1.1",
    "scgi_pass": "backends speak HTTP/1.1",
    "memcached_pass": "backends speak HTTP/1.1",
}

BUILT_IN: Final[Mapping[str, str]] = {
    "real_ip_recursive": "X-Forwarded-For is read from its end to the first address that is not trusted",
    "zone": "there is no memory to set aside",
    "proxy_http_version": "backends are spoken to in HTTP/1.1, with connections kept open",
    "proxy_socket_keepalive": "the idle timeout finds backends that are gone",
    "proxy_ssl_server_name": "the name is always sent (SNI)",
    "proxy_ssl_session_reuse": "sessions are OpenSSL's business",
    "proxy_headers_hash_max_size": "there are no tables to size",
    "proxy_headers_hash_bucket_size": "there are no tables to size",
    "variables_hash_max_size": "there are no tables to size",
    "variables_hash_bucket_size": "there are no tables to size",
    "map_hash_max_size": "there are no tables to size",
    "map_hash_bucket_size": "there are no tables to size",
    "server_names_hash_max_size": "there are no tables to size",
    "server_names_hash_bucket_size": "there are no tables to size",
    "proxy_buffers": "answers are never held back",
    "proxy_buffer_size": "heads of answers have a fixed bound",
    "proxy_busy_buffers_size": "answers are never held back",
    "proxy_max_temp_file_size": "nothing is written to disk",
    "proxy_temp_file_write_size": "nothing is written to disk",
    "proxy_temp_path": "nothing is written to disk",
    "client_body_temp_path": "nothing is written to disk",
    "client_body_buffer_size": "bodies are held in memory, up to limits.body each and limits.body_memory in all",
    "client_body_in_file_only": "nothing is written to disk",
    "chunked_transfer_encoding": "bodies are framed as HTTP/1.1 asks",
    "sendfile": "no files are served",
    "sendfile_max_chunk": "no files are served",
    "aio": "no files are served",
    "directio": "no files are served",
    "tcp_nopush": "answers go out at once",
    "tcp_nodelay": "answers go out at once",
    "types": "no files are served",
    "default_type": "no files are served",
    "types_hash_max_size": "no files are served",
    "types_hash_bucket_size": "no files are served",
    "charset": "no files are served",
    "server_tokens": "no version is told",
    "underscores_in_headers": "headers are passed on as they are named",
    "ignore_invalid_headers": "a header that is not HTTP is refused",
    "merge_slashes": "paths are passed on as they are",
    "absolute_redirect": "there are no redirects",
    "port_in_redirect": "there are no redirects",
    "server_name_in_redirect": "there are no redirects",
    "reset_timedout_connection": "a client that takes nothing is cut off",
    "lingering_timeout": "how long a refused client is read from is fixed",
    "pid": "the system's service manager keeps it",
    "daemon": "the system's service manager keeps it",
    "events": "connections are counted by limits.connections",
    "worker_rlimit_nofile": "the system's limit is read at the start",
    "worker_cpu_affinity": "the system places processes",
    "pcre_jit": "there are no regular expressions",
    "ssl_session_cache": "sessions are OpenSSL's business",
    "ssl_session_timeout": "sessions are OpenSSL's business",
    "ssl_session_tickets": "sessions are OpenSSL's business",
    "ssl_prefer_server_ciphers": "Python's choice of ciphers holds",
    "ssl_ciphers": "Python's choice of ciphers holds",
    "ssl_ecdh_curve": "Python's choice of curves holds",
    "ssl_dhparam": "Python's choice of curves holds",
    "ssl_buffer_size": "answers go out at once",
    "ssl_early_data": "early data is not taken",
}

BEGINNINGS: Final[tuple[tuple[str, str], ...]] = (
    ("proxy_cache", "nothing is cached: the engines' own prefix caches are what the policies use"),
    ("proxy_no_cache", "nothing is cached: the engines' own prefix caches are what the policies use"),
    ("open_file_cache", "no files are served"),
    ("gzip", "answers are passed on as they are; engines stream, and compression would hold tokens back"),
    ("brotli", "answers are passed on as they are; engines stream, and compression would hold tokens back"),
    ("gunzip", "answers are passed on as they are"),
    ("http2_", "HTTP/2 has limits.streams and limits.head, and bounds of its own for the rest"),
    ("http3", "HTTP/3 is not served"),
    ("quic_", "HTTP/3 is not served"),
    ("ssl_stapling", "certificates are not stapled"),
    ("ssl_ocsp", "clients' certificates are not looked up"),
    ("otel", "there is no tracing by OpenTelemetry"),
    ("opentracing", "there is no tracing by OpenTelemetry"),
    ("js_", "scripts in nginx do not work here"),
    ("perl_", "scripts in nginx do not work here"),
    ("modsecurity", "there is no web application firewall"),
    ("limit_", "clients are not limited one by one"),
    ("auth_", ACCESS),
    ("grpc_", "gRPC is not balanced"),
    ("fastcgi_", "only HTTP/1.1 backends are balanced"),
    ("uwsgi_", "only HTTP/1.1 backends are balanced"),
    ("worker_", "Fairlead has its own number of processes"),
    ("geoip", "there are no variables by address"),
    ("userid", "no cookies are set"),
)
_LUA: Final = "is Lua, which is not read: write what it does into the clients, or keep nginx in front for it"


def remark(directive: Directive, notes: Notes) -> None:
    """Say why the directive became no option."""
    name = directive.name
    if directive.args == ("off",):
        notes.built_in(directive, "is off here too")
    elif name in BUILT_IN:
        notes.built_in(directive, BUILT_IN[name])
    elif name in IMPORTANT:
        notes.left_out(directive, IMPORTANT[name], important=True)
    elif name in LEFT_OUT:
        notes.left_out(directive, LEFT_OUT[name])
    elif "_by_lua" in name or name.startswith(("lua_", "init_by", "balancer_by")):
        notes.left_out(directive, _LUA, important=name.startswith("access_by"))
    else:
        for beginning, reason in BEGINNINGS:
            if name.startswith(beginning):
                notes.left_out(directive, reason, important=reason is ACCESS)
                return
        notes.left_out(directive, "is not known here")
