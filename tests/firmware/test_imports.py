import json
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in ("appliance", "host_sdk"))))
"""


@pytest.mark.parametrize("module", ["firmware.main", "firmware.boot.rom", "firmware.cli"])
def test_the_firmware_knows_the_wire_and_the_register_map_alone(module: str) -> None:
    command = [sys.executable, "-c", SCRIPT, module]
    loaded = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    others = [name for name in loaded if not name.startswith("host_sdk.wire")]
    assert set(others) <= {"host_sdk", "appliance", "appliance.board", "appliance.board.regmap"}
