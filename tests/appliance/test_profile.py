import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from appliance.profile import Limits, available_profiles, load_profile, parse_profile
from host_sdk.wire.errors import ConfigError
from tests.rig.nodes import ROOT

SHIPPED = ROOT / "appliance" / "profiles" / "napu-s.toml"


@pytest.fixture
def data() -> dict[str, Any]:
    return tomllib.loads(SHIPPED.read_text())


@pytest.mark.parametrize("name", available_profiles())
def test_every_shipped_profile_loads_and_gives_a_reason_for_each_figure(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert len({figure.why for figure in profile.figures.values()}) == len(profile.figures)
    assert all(len(figure.why.split()) >= 4 and figure.value > 0 for figure in profile.figures.values())


def test_values_are_those_of_the_file(data: dict[str, Any]) -> None:
    profile = load_profile("napu-s")
    assert profile.value("port", "rate_gbps") == data["port"]["rate_gbps"]["value"] == 10.0
    assert profile.limits == Limits(**data["limits"])
    assert profile.limits.sessions >= 10_000


def test_limits_of_sessions_and_queues_are_those_of_the_protocol() -> None:
    limits = load_profile("napu-s").limits
    assert (limits.credits, limits.session_window, limits.session_fragments) == (64, 128, 512)
    assert (limits.session_idle_s, limits.queue_wait_ms) == (300, 50)


def test_tenants_are_optional_and_have_weights(tmp_path: Path) -> None:
    assert load_profile("napu-s").tenants == {}
    path = tmp_path / "shared.toml"
    path.write_text(SHIPPED.read_text() + '[tenants]\nresearch = { weight = 3 }\n"büro" = { weight = 1000 }\n')
    assert load_profile(str(path)).tenants == {"research": 3, "büro": 1000}


def test_a_profile_of_the_users_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.read_text().replace('"napu-s"', '"mine"'))
    assert load_profile(str(path)).name == "mine"


def edit(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy with one entry replaced, or removed where the value is Ellipsis."""
    edited = copy.deepcopy(data)
    table = edited
    for key in path[:-1]:
        table = table[key]
    if value is ...:
        del table[path[-1]]
    else:
        table[path[-1]] = value
    return edited


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("dla",), ..., "missing or unknown: dla"),
        (("gpu",), {}, "missing or unknown: gpu"),
        (("port",), 3, r"port\.rate_gbps must be"),
        (("port", "watts"), 1.0, r"port\.watts must be { value"),
        (("port", "watts", "source"), "x", r"port\.watts must be"),
        (("port", "watts", "value"), 0, r"port\.watts\.value must be a positive number, not 0"),
        (("port", "watts", "value"), -1.5, r"port\.watts\.value must be a positive number, not -1\.5"),
        (("port", "watts", "value"), True, r"port\.watts\.value must be a positive number, not True"),
        (("port", "watts", "value"), float("nan"), r"port\.watts\.value must be a positive number, not nan"),
        (("port", "watts", "value"), float("inf"), r"port\.watts\.value must be a positive number, not inf"),
        (("port", "watts", "value"), "1 W", r"port\.watts\.value must be a positive number, not '1 W'"),
        (("dla", "cores", "why"), "because", r"dla\.cores\.why must give the source"),
        (("dla", "cores", "why"), 7, r"dla\.cores\.why must give the source"),
        (("dla", "cores", "why"), ..., r"dla\.cores must be"),
        (("thermal",), ..., "missing or unknown: thermal"),
        (("thermal", "resume_c", "value"), 85.0, r"thermal\.ambient_c, resume_c and limit_c must rise"),
        (("thermal", "ambient_c", "value"), 75, r"thermal\.ambient_c, resume_c and limit_c must rise"),
        (("thermal", "limit_c", "value"), 1001, r"must rise, to at most 1000"),
        (("thermal", "throttled_percent", "value"), 100.5, r"throttled_percent\.value must be a whole number"),
        (("thermal", "throttled_percent", "value"), 101, r"throttled_percent\.value must be a whole number"),
        (("thermal", "throttled_percent", "value"), 0.5, r"throttled_percent\.value must be a whole number"),
        (("limits",), [], r"\[limits\] needs exactly"),
        (("limits", "sessions"), ..., r"\[limits\] needs exactly: .*sessions"),
        (("limits", "colour"), 1, r"\[limits\] needs exactly"),
        (("limits", "sessions"), 0, r"limits\.sessions must be a whole number from 1 to 65535, not 0"),
        (("limits", "sessions"), 65536, r"limits\.sessions must be a whole number from 1 to 65535"),
        (("limits", "credits"), 256, r"limits\.credits must be a whole number from 1 to 255"),
        (("limits", "credits"), 8.0, r"limits\.credits must be a whole number"),
        (("limits", "credits"), True, r"limits\.credits must be a whole number"),
        (("limits", "max_message"), 65535, r"limits\.max_message must be a whole number from 65536 to 16777216"),
        (("limits", "max_message"), 16777217, r"limits\.max_message must be a whole number"),
        (("limits", "pipelines"), 256, r"limits\.pipelines must be a whole number from 1 to 255"),
        (("limits", "session_window"), ..., r"\[limits\] needs exactly: .*session_window"),
        (("limits", "session_window"), 2048, r"limits\.session_window must be a whole number from 1 to 1024"),
        (("limits", "session_window"), 96, r"limits\.session_window must be a power of two, .* not 96"),
        (("limits", "session_window"), 32, r"limits\.session_window must be .* at least limits\.credits, not 32"),
        (("limits", "credits"), 129, r"limits\.session_window must be .* at least limits\.credits, not 128"),
        (("limits", "session_fragments"), 0, r"limits\.session_fragments must be a whole number from 1 to 65535"),
        (("limits", "session_idle_s"), 59, r"limits\.session_idle_s must be a whole number from 60 to 86400"),
        (("limits", "kept_answers_bytes"), -1, r"limits\.kept_answers_bytes must be a whole number from 0"),
        (("limits", "queue_wait_ms"), 0, r"limits\.queue_wait_ms must be a whole number from 1 to 60000"),
        (("tenants",), 3, r"\[tenants\] must be a table of at most 64 names"),
        (("tenants",), {f"t{n}": {"weight": 1} for n in range(65)}, r"at most 64 names"),
        (("tenants",), {"": {"weight": 1}}, r"a tenant's name must be of 1 to 64 bytes, not ''"),
        (("tenants",), {"é" * 33: {"weight": 1}}, r"a tenant's name must be of 1 to 64 bytes"),
        (("tenants",), {"a": 3}, r"tenants\.a must be { weight"),
        (("tenants",), {"a": {}}, r"tenants\.a must be { weight"),
        (("tenants",), {"a": {"weight": 1, "colour": 2}}, r"tenants\.a must be { weight"),
        (("tenants",), {"a": {"weight": 0}}, r"tenants\.a must be { weight = … }, a whole number from 1 to 1000"),
        (("tenants",), {"a": {"weight": 1001}}, r"tenants\.a must be"),
        (("tenants",), {"a": {"weight": 1.5}}, r"tenants\.a must be"),
        (("tenants",), {"a": {"weight": True}}, r"tenants\.a must be"),
    ],
)
def test_each_mistake_is_named(data: dict[str, Any], path: tuple[str, ...], value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_profile(edit(data, path, value))


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no profile is called napu-xxl; there are: .*napu-s"):
        load_profile("napu-xxl")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        load_profile(str(tmp_path / "absent.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml cannot be read"):
        load_profile(str(tmp_path / "binary.toml"))


def test_a_file_that_is_no_toml_or_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match=r"mine\.toml is no TOML"):
        load_profile(str(path))
    path.write_text('name = "mine"')
    with pytest.raises(ConfigError, match=r"mine\.toml: missing or unknown: "):
        load_profile(str(path))
