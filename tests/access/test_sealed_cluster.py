"""A cluster client with an identity: every inference sealed, also those that move, and after a restart."""

from pathlib import Path

import pytest

from host_sdk.access.ca import LabCa, utc_now
from host_sdk.access.identity import Identity
from host_sdk.cluster.client import NapuCluster
from host_sdk.cluster.policy import ClusterPolicy
from host_sdk.operations import Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import NapuError
from host_sdk.wire.roles import Grant, Role
from tests.rig.nodes import node_process, within
from tests.rig.packages import held_out

JPEGS = [jpeg for _, jpeg in held_out()][:20] * 8


def made_by(results: list[Inference | NapuError]) -> set[str]:
    assert len(results) == len(JPEGS)
    assert all(isinstance(result, Inference) and result.sealed for result in results), results
    return {result.appliance for result in results if isinstance(result, Inference)}


@pytest.fixture
def ca(tmp_path: Path) -> LabCa:
    made = LabCa.create(tmp_path / "ca", utc_now)
    made.issue_user("vera", Grant(Role.VIEWER), tmp_path / "vera")
    for name in ("napu1", "napu2"):
        made.issue_device(name, tmp_path / name)
    return made


@pytest.mark.usefixtures("ca")
def test_sealed_requests_move_and_a_member_that_restarted_gets_a_key_again(tmp_path: Path) -> None:
    def options(name: str) -> tuple[str, ...]:
        return "--access", "mutual", "--credentials", str(tmp_path / name)

    who = Identity.load(tmp_path / "vera")
    with (
        node_process(tmp_path / "one", *options("napu1")) as one,
        node_process(tmp_path / "two", *options("napu2")) as two,
    ):
        addresses = [one.address, two.address]
        cluster = NapuCluster(
            "udp:127.0.0.1:0", addresses, timeout=Timeout(20.0), policy=ClusterPolicy(quiet=0.2), identity=who
        )
        with cluster:
            assert within(20, lambda: made_by(list(cluster.infer_many("digits", JPEGS))) == set(addresses))
            assert {member.device for member in cluster.members()} == {"napu1", "napu2"}
            two.process.kill()
            two.process.wait()
            assert one.address in made_by(list(cluster.infer_many("digits", JPEGS)))
            assert within(20, lambda: "down" in {member.state for member in cluster.refresh()})
            with node_process(tmp_path / "two", *options("napu2"), link=f"udp:{two.address}"):
                assert within(20, lambda: {member.state for member in cluster.refresh()} == {"up"})
                assert within(20, lambda: two.address in made_by(list(cluster.infer_many("digits", JPEGS))))
