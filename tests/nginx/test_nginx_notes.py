"""What `fairlead import nginx` says about directives that became no option, and about files it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest
from nginx_checking import config_of, imported

from fairlead.nginx import tree
from fairlead.nginx.notes import BUILT_IN, CHANGED, LEFT_OUT
from fairlead.nginx.tree import NginxError

WHOLE = "upstream u {\n server a:1;\n server b:1;\n%s\n}\nserver {\n%s\nlocation / {\n proxy_pass http://u;\n%s\n}\n}\n"


def notes_of(text: str, folder: Path, **options: object) -> list[tuple[str, int, bool, str]]:
    made = imported(text, folder, **options)
    config_of(made)
    return [(note.kind, note.line, note.important, f"{note.directive} {note.reason}") for note in made.notes]


@pytest.mark.parametrize(
    ("upstream", "server", "location", "kind", "line", "words"),
    [
        ("resolver 1.1.1.1;", "", "", LEFT_OUT, 4, "looked up by the system"),
        ("zone u 64k;", "", "", BUILT_IN, 4, "no memory"),
        ("keepalive_time 1h;", "", "", LEFT_OUT, 4, "keepalive.requests"),
        ("server c:1 route=x;", "", "", LEFT_OUT, 4, "(route)"),
        ("server $host;", "", "", LEFT_OUT, 4, "has a variable"),
        ("ip_hash;", "", "", CHANGED, 4, "is prefix_hash here"),
        ("sticky learn create=$a lookup=$b zone=c:1m;", "", "", LEFT_OUT, 4, "session is named by a header"),
        ("keepalive many;", "", "", LEFT_OUT, 4, "expected a whole number"),
        ("server c:1 weight=two;", "", "", LEFT_OUT, 4, "(weight=two): expected a whole number"),
        ("", "rewrite ^ /x;", "", LEFT_OUT, 7, "not rewritten"),
        ("", "gzip on;", "", LEFT_OUT, 7, "hold tokens back"),
        ("", "gzip off;", "", BUILT_IN, 7, "off here too"),
        ("", "ssl_ciphers HIGH;", "", BUILT_IN, 7, "ciphers"),
        ("", "server_name llm.example.com;", "", BUILT_IN, 7, "every host name"),
        ("", "listen 443 quic;", "", LEFT_OUT, 7, "HTTP/3"),
        ("", "frobnicate 3;", "", LEFT_OUT, 7, "is not known here"),
        ("", "location ~ \\.php$ { fastcgi_pass x; }", "", LEFT_OUT, 7, "backends speak HTTP/1.1"),
        ("", "location /s/ { root /srv; }", "", LEFT_OUT, 7, "leads to no backend"),
        ("", "location /health { return 200; }", "", BUILT_IN, 7, "answers /health itself"),
        ("", "location @x { proxy_pass http://u; }", "", LEFT_OUT, 7, "has a name"),
        ("", "location ~ ^/(a|b) { proxy_pass http://u; }", "", LEFT_OUT, 7, "is a regular expression"),
        ("", "location /x/ { proxy_pass http://$arg_a; }", "", LEFT_OUT, 7, "by a variable"),
        ("", "", "proxy_buffering off;", BUILT_IN, 10, "never held back"),
        ("", "", "proxy_buffering on;", CHANGED, 10, "never held back"),
        ("", "", "proxy_request_buffering off;", CHANGED, 10, "read whole"),
        ("", "", "proxy_http_version 1.1;", BUILT_IN, 10, "HTTP/1.1"),
        ("", "", "proxy_cache zone;", LEFT_OUT, 10, "nothing is cached"),
        ("", "", "proxy_set_header Host $host;", CHANGED, 10, "X-Forwarded-Host"),
        ("", "", "proxy_set_header Connection '';", BUILT_IN, 10, "kept open"),
        ("", "", "proxy_set_header Upgrade $http_upgrade;", LEFT_OUT, 10, "WebSockets"),
        ("", "", "proxy_set_header X-Forwarded-For $remote_addr;", BUILT_IN, 10, "forwarded: true"),
        ("", "", "proxy_set_header X-Real-IP $remote_addr;", LEFT_OUT, 10, "has a variable"),
        ("", "", "proxy_set_header Authorization $http_authorization;", BUILT_IN, 10, "passed on as it is"),
        ("", "", "proxy_set_header Content-Length '';", LEFT_OUT, 10, "not Fairlead's own to write"),
        ("", "", "proxy_next_upstream http_404;", LEFT_OUT, 10, "the engine's answer"),
        ("", "", "proxy_next_upstream_tries 0;", LEFT_OUT, 10, "there always is one"),
        ("", "", "client_max_body_size 0;", LEFT_OUT, 10, "there always is one"),
        ("", "", "keepalive_timeout 0;", LEFT_OUT, 10, "kept open"),
        ("", "", "proxy_read_timeout 2d;", CHANGED, 10, "is 1d here, the nearest"),
        ("", "", "proxy_read_timeout soon;", LEFT_OUT, 10, "could not be read"),
        ("", "", "content_by_lua_block { ngx.say('key-123') }", LEFT_OUT, 10, "is Lua"),
        ("", "", "if ($arg_x) { return 403; }", LEFT_OUT, 10, "no conditions"),
        ("", "set_real_ip_from lb.example.com;", "", LEFT_OUT, 7, "is no address or network"),
        ("", "access_log syslog:server=10.0.0.1;", "", LEFT_OUT, 7, "to a file or to standard output"),
        ("", "ssl_verify_client optional_no_ca; ssl_certificate a; ssl_certificate_key b; listen 443 ssl;", "",
         LEFT_OUT, 7, "checked or not asked for"),
    ],
)  # fmt: skip
def test_every_directive_without_an_option_has_its_reason_and_its_line(
    tmp_path: Path, upstream: str, server: str, location: str, kind: str, line: int, words: str
) -> None:
    found = notes_of(WHOLE % (upstream, server, location), tmp_path)
    assert any((kind, line) == note[:2] and words in note[3] for note in found), found
    assert not any("key-123" in note[3] for note in found)  # code may hold keys


@pytest.mark.parametrize(
    ("server", "location"),
    [
        ("auth_basic staff;", ""),
        ("allow 10.0.0.0/8; deny all;", ""),
        ("", "auth_request /auth;"),
        ("", "auth_jwt realm;"),
        ("", "limit_req zone=x;"),
        ("", "limit_conn x 3;"),
        ("", "access_by_lua_file /etc/a.lua;"),
        ("location /metrics { deny all; }", ""),
        ("location /admin/ { return 403; }", ""),
        ("location /in/ { internal; }", ""),
        ("", "limit_except GET { deny all; }"),
    ],
)
def test_what_kept_clients_away_is_important_and_comes_first(tmp_path: Path, server: str, location: str) -> None:
    found = notes_of(WHOLE % ("", "gzip on;" + server, location), tmp_path)
    assert found[0][:1] == (LEFT_OUT,) and found[0][2]
    assert [note[2] for note in found if note[0] == LEFT_OUT] == sorted(
        (note[2] for note in found if note[0] == LEFT_OUT), reverse=True
    )


def test_a_wider_route_is_important(tmp_path: Path) -> None:
    text = WHOLE % ("", "location /openai/v1/ { proxy_pass http://u/v1/; }", "")
    assert any(note[2] and "lets more paths through" in note[3] for note in notes_of(text, tmp_path))


def test_where_places_differ_the_largest_counts_and_the_others_are_told(tmp_path: Path) -> None:
    text = "server { location /a/ {\n proxy_pass http://a:1; proxy_read_timeout 1h; }\n"
    text += "location /b/ {\n proxy_pass http://b:1; proxy_read_timeout 5m; } }"
    made = imported(text, tmp_path)
    assert made.data["timeouts"] == {"first_byte": "1h", "idle": "1h"}
    assert [note.line for note in made.notes if "timeouts.first_byte" in note.reason] == [4]


def test_upstreams_with_different_methods_get_one_policy_and_the_key_counts(tmp_path: Path) -> None:
    text = (
        "upstream a {\n server a:1; server b:1; least_conn; }\nupstream b {\n server c:1; server d:1; hash $cookie_s; }"
    )
    text += "server { location /a/ { proxy_pass http://a; } location /b/ { proxy_pass http://b; } }"
    made = imported(text, tmp_path)
    assert made.data["policy"] == {"name": "session", "header": None, "cookie": "s"}
    assert any(note.line == 2 and "one policy holds for all" in note.reason for note in made.notes)


SITES = "server { server_name a.com; location / { proxy_pass http://a:1; } }\n"
SITES += "server { server_name b.com; location / { proxy_pass http://b:1; } }"


def test_host_names_that_lead_to_different_backends_are_told_and_can_be_chosen(tmp_path: Path) -> None:
    found = notes_of(SITES, tmp_path)
    assert any(note[2] and "run one Fairlead for each" in note[3] and note[1] == 2 for note in found)
    made = imported(SITES, tmp_path, server="b.com")
    assert made.data["backends"] == ["http://b:1"]
    assert any("(a.com) is not b.com" in note.reason for note in made.notes)


def test_an_upstream_that_nothing_leads_to_is_told(tmp_path: Path) -> None:
    text = "upstream a { server a:1; }\nupstream b { server b:1; }\nserver { location / { proxy_pass http://a; } }"
    (left_out,) = notes_of(text, tmp_path)
    assert left_out[:2] == (LEFT_OUT, 2) and "leads to it" in left_out[3]
    assert imported(text, tmp_path).data["backends"] == ["http://a:1"]


def test_http_and_https_on_one_port_get_different_names(tmp_path: Path) -> None:
    text = "server { location /a/ { proxy_pass http://a:1; } "
    text += "location /b/ { proxy_pass https://a:1; proxy_ssl_verify on; } }"
    made = imported(text, tmp_path)
    assert [route["backends"] for route in made.data["routes"]] == [["a:1"], ["https://a:1"]]
    assert [backend.name for backend in config_of(made).backends] == ["a:1", "https://a:1"]


def test_a_port_that_the_admin_address_has_moves_it(tmp_path: Path) -> None:
    made = imported("server { listen 9900; location / { proxy_pass http://a:1; } }", tmp_path)
    assert str(config_of(made).admin) == "127.0.0.1:9901"


def test_includes_are_followed_from_the_main_files_folder(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "up.conf").write_text("upstream u { server a:1; include conf.d/more.inc; }")
    (tmp_path / "conf.d" / "more.inc").write_text("server b:1;\nresolver 1.1.1.1;\n")
    text = "http {\n include mime.types;\n include conf.d/*.conf;\n server { location / { proxy_pass http://u; } } }"
    made = imported(text, tmp_path)
    assert made.data["backends"] == ["http://a:1", "http://b:1"]
    assert any(note.line == 2 and note.reason == "could not be opened" for note in made.notes)
    assert any(note.line == 2 and note.file.endswith("more.inc") for note in made.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "leads to no backend"),
        ("# only a comment", "leads to no backend"),
        ("events {} http { server { return 301 https://x; } }", "leads to no backend"),
        ("upstream u { }", "leads to no backend"),
        ("upstream u { server a:1;\nserver b:1", ":2: is not nginx syntax"),
        ("upstream u {\n server a:1; } }", ":2: is not nginx syntax: unexpected \"}\""),
        ("http {\n server {\n", ":2: is not nginx syntax: unexpected end of file"),
        ("http {\n keepalive_timeout; }", ":2: is not nginx syntax: invalid number of arguments"),
        ("http { server { listen 80 } }", "is not nginx syntax"),
        ("hello world", "it ends in the middle of a directive"),
        ("\0\1", "is not text"),
        ("include nginx.conf;", ":1: include nginx.conf; leads back to a file"),
        ("include loop.conf;", "loop.conf:1: include nginx.conf; leads back to a file"),
        ("include bad.conf;", "bad.conf:1: is not nginx syntax"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "loop.conf").write_text("include nginx.conf;")
    (tmp_path / "bad.conf").write_text("}")
    with pytest.raises(NginxError) as caught:
        imported(text, tmp_path)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "LARGEST_FILE", 100)
    with pytest.raises(NginxError, match="is larger than"):
        imported("#" * 101, tmp_path)
    monkeypatch.setattr(tree, "MOST_DIRECTIVES", 5)
    with pytest.raises(NginxError, match="more than 5 directives"):
        imported("user a;" * 6, tmp_path)
    monkeypatch.setattr(tree, "MOST_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.inc").write_text("user a;")
    with pytest.raises(NginxError, match="more than 3 files"):
        imported("include *.inc;", tmp_path)
    for number in range(25):
        (tmp_path / f"deep{number}.conf").write_text(f"include deep{number + 1}.conf;")
    monkeypatch.setattr(tree, "MOST_FILES", 500)
    monkeypatch.setattr(tree, "MOST_DIRECTIVES", 10**6)
    with pytest.raises(NginxError, match="20 deep"):
        imported("include deep0.conf;", tmp_path)
    monkeypatch.setattr(tree, "LARGEST_FILE", 10**6)
    for depth in (51, 900, 5000):
        with pytest.raises(NginxError, match=r"nested more than 50 deep|is not nginx syntax"):
            imported("a{" * depth + "}" * depth, tmp_path)
