"""Where nothing may be sent to, in every notation that somebody thought of; and what must go on working."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from phasewatch.errors import AddressRefused
from server.alerts.addresses import Target, checked_addresses, is_public, parse_target, resolve

# Hosts that mean this machine, its network or a cloud's metadata, and names written to look like others.
NOTATIONS = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "00000177.0.0.1",
    "127.0.0.1.",
    "127.0.0.1..",
    "4294967297",
    "127.0.0.0x1",
    "0",
    "0.0.0.0",
    "0x0",
    "00",
    "10.0.0.1",
    "10.255.255.255",
    "012.0.0.1",
    "167772161",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.1",
    "3232235521",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.254",
    "169.254.169.254",
    "169.254.1.1",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.43518",
    "168.63.129.16",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2002:7f00:1::1]",
    "[2002:a9fe:a9fe::]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[2001::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[fc00::1]",
    "[fd00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[::1%25lo]",
    "[fec0::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[100::1]",
    "[5f00::1]",
    "[4000::1]",
    "[::1",
    "[127.0.0.1]",
    "[1]",
    "[v1.127]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost.localdomain.",
    "１２７.０.０.１",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "①②⑦.⓪.⓪.①",
    "𝟏𝟐𝟕.0.0.1",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "ｌｏｃａｌｈｏｓｔ",
    "loc\u00adalhost",
    "loc\u200balhost",
    "lo\u0441alhost\u202e",
    "user@127.0.0.1",
    "user:pass@10.0.0.1",
    "hooks.example.com@127.0.0.1",
    "127.0.0.1@hooks.example.com",
    "hooks.example.com:443@127.0.0.1",
    "127.0.0.1%00.example.com",
    "127.0.0.1\x00.example.com",
    "127.0.0.1%2f.example.com",
    "127.0.0.1\\.example.com",
    "127.0.0.1\\@hooks.example.com",
    "127.0.0.1 .example.com",
    "127.0.0.1\t",
    "127.0.0.1\r\nHost: x",
    "%6c%6f%63%61%6c%68%6f%73%74",
    "%31%32%37.0.0.1",
    "127.0.0.1:80:80",
    "127.0.0.1:0",
    "127.0.0.1:99999",
    "127.0.0.1:-1",
    "-hooks.example.com",
    "hooks..example.com",
    ".example.com",
    "hooks.example.123",
    "hooks.example.0x1f",
    "",
    ":80",
    "@",
    "a" * 64 + ".com",
    "a." * 130 + "com",
    "hooks_*.example.com",
    "hooks.example.com;127.0.0.1",
    "hooks.example.com,127.0.0.1",
]

SCHEMES = [
    "ftp://hooks.example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/",
    "ldap://127.0.0.1/",
    "unix:///run/docker.sock",
    "http+unix://%2Frun%2Fdocker.sock/",
    "javascript:alert(1)",
    "data:text/plain,x",
    "//hooks.example.com/",
    "/hooks",
    "hooks.example.com",
    "http:hooks.example.com",
    "http:///hooks",
    "http:/\\hooks.example.com",
    "https:\\\\hooks.example.com",
    " http://hooks.example.com/",
    "http://hooks.example.com/\x00",
    "http://hooks.example.com/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "http://hooks.example.com/\u2028",
    "http://[hooks.example.com/",
    "http://hooks.example.com/" + "a" * 2_000,
]


def numeric_only(host: str, port: int) -> Sequence[str]:
    """What the system makes of an address or of localhost; any other name is of the public internet."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return ["127.0.0.1", "::1"] if host.rstrip(".") in ("localhost", "localhost.localdomain") else ["93.184.215.14"]
    return [str(address[0]) for *_, address in found]


def check(url: str) -> None:
    """What happens to an address before anything is sent to it."""
    target = parse_target(url)
    checked_addresses(target.host, target.port, allow_private=False, resolver=numeric_only)


class TestRefused:
    @pytest.mark.parametrize("host", NOTATIONS)
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_hosts(self, host: str, scheme: str) -> None:
        with pytest.raises(AddressRefused):
            check(f"{scheme}://{host}/hooks")

    @pytest.mark.parametrize("url", SCHEMES)
    def test_addresses(self, url: str) -> None:
        with pytest.raises(AddressRefused):
            check(url)

    def test_there_are_enough_of_them(self) -> None:
        assert len(set(NOTATIONS)) == len(NOTATIONS) > 100

    def test_one_private_address_among_public_ones(self) -> None:
        found = ["93.184.215.14", "2606:4700::1111", "10.0.0.1"]
        with pytest.raises(AddressRefused, match=r"hooks.example.com is 10\.0\.0\.1"):
            checked_addresses("hooks.example.com", 443, allow_private=False, resolver=lambda *_: found)

    def test_an_answer_that_is_no_address(self) -> None:
        with pytest.raises(AddressRefused):
            checked_addresses("hooks.example.com", 443, allow_private=False, resolver=lambda *_: ["fe80::1%eth0"])

    def test_what_the_setting_allows_is_what_is_written_plainly(self) -> None:
        assert checked_addresses("127.0.0.1", 80, allow_private=True) == ["127.0.0.1"]
        with pytest.raises(AddressRefused):
            parse_target("http://0x7f000001/")

    def test_a_host_without_any_address_is_an_error_of_the_network(self) -> None:
        with pytest.raises(OSError, match="no address"):
            checked_addresses("hooks.example.com", 443, allow_private=True, resolver=lambda *_: [])


class TestTaken:
    @pytest.mark.parametrize(
        ("url", "target"),
        [
            ("https://hooks.example.com", Target("https", "hooks.example.com", 443, "/")),
            ("HTTPS://Hooks.Example.COM/A/b?c=D", Target("https", "hooks.example.com", 443, "/A/b?c=D")),
            ("http://hooks.example.com:8080/x#part", Target("http", "hooks.example.com", 8080, "/x")),
            ("https://a_b.example.com/%2e%2e/@x", Target("https", "a_b.example.com", 443, "/%2e%2e/@x")),
            ("https://93.184.215.14/", Target("https", "93.184.215.14", 443, "/")),
            ("https://[2606:4700::1111]:8443/", Target("https", "2606:4700::1111", 8443, "/")),
            ("https://bücher.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
            ("https://127.0.0.1.example.com/", Target("https", "127.0.0.1.example.com", 443, "/")),
        ],
    )
    def test_addresses(self, url: str, target: Target) -> None:
        assert parse_target(url) == target
        check(url)

    @pytest.mark.parametrize(
        "address",
        ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
         "192.167.255.255", "223.255.255.255", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2a00::1"],
    )  # fmt: skip
    def test_public_addresses(self, address: str) -> None:
        assert is_public(address)

    @pytest.mark.parametrize(
        ("target", "shown", "authority"),
        [
            (Target("https", "hooks.example.com", 443, "/secret"), "https://hooks.example.com/…", "hooks.example.com"),
            (Target("http", "::1", 8080, "/"), "http://[::1]:8080/…", "[::1]:8080"),
        ],
    )
    def test_what_is_shown_and_sent_of_one(self, target: Target, shown: str, authority: str) -> None:
        assert (target.shown, target.authority) == (shown, authority)

    def test_the_systems_resolver_names_each_address_once(self) -> None:
        assert resolve("127.0.0.1", 80) == ["127.0.0.1"]
