"""Every key of a lab file, once, as data: read by the Topology, published as schema, documented in docs/labs.md."""

from typing import Final

from host_sdk.lab.reader import Key, ListOf, Shape, Text, Whole
from host_sdk.wire.schema import MIN_MTU

DEFAULT_MTU: Final = 1500
JUMBO_MTU: Final = 3400  # as much as a veth pair takes with XDP in native mode
MAX_MTU: Final = 9000  # with XDP in generic mode, or AF_PACKET
MAX_APPLIANCES: Final = 254  # the last octet of a MAC address that the lab assigns
MAX_HOSTS: Final = 16
SWITCH: Final = "switch"  # how the switch is named where a node's name is asked for
RESERVED: Final = ("keeper", SWITCH)
OPEN: Final = "open"
MUTUAL: Final = "mutual"
DRIVERS: Final = ("netns", "docker")
LINKS: Final = ("auto", "xdp", "packet")
CABLINGS: Final = ("switch", "direct")
DEFAULT_PROFILE: Final = "napu-s"

NAME: Final = Text(
    "a name: 1 to 32 of a-z, 0-9 and inner hyphens, and neither keeper nor switch",
    rf"(?!(?:{'|'.join(RESERVED)})$)[a-z0-9](?:[a-z0-9-]{{0,30}}[a-z0-9])?",
)
MAC: Final = Text("a MAC address for a lab: 02:xx:xx:xx:xx:xx, lower case", "02(?::[0-9a-f]{2}){5}")
MTU: Final = Whole(MIN_MTU, MAX_MTU, "bytes")
SEED: Final = Whole(0, (1 << 63) - 1)
COUNT: Final = Whole(1, MAX_APPLIANCES)
DRIVER: Final = Text(choices=DRIVERS)
LINK_KIND: Final = Text(choices=LINKS)
CABLING: Final = Text(choices=CABLINGS)
ACCESS: Final = Text(choices=(OPEN, MUTUAL))
FAULTS: Final = Text("faults, as `loss=5%,delay=1ms`")
RATE: Final = Text("a rate, as `100Mbit`", r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[kKmMgG]?[bB][iI][tT])")
PATH: Final = Text("a path, relative to the file", r"[^\n\0]+")
PROFILE: Final = Text("a profile's name, or a path to its `.toml`", r"[^\n\0]+")
_TEXT: Final = Text("text")

HOST: Final = Shape(
    "host",
    (
        Key("name", NAME, "unique in the lab"),
        Key("mac", MAC, "its address", "", "given by the lab"),
    ),
)

APPLIANCE: Final = Shape(
    "appliance",
    (
        Key("name", NAME, "unique in the lab; with `count` what their names begin with"),
        Key("count", COUNT, "so many equal ones, called `name1`, `name2`, …", 0, "one, called `name`"),
        Key("mac", MAC, "its address; not with `count`", "", "given by the lab"),
        Key("profile", PROFILE, "its hardware", DEFAULT_PROFILE),
        Key("pipelines", ListOf(PATH, "directories"), "pipelines in its flash when it is new", (), "those shipped"),
        Key("firmware", PATH, "firmware image in its boot flash when it is new", "", "the installation's own"),
        Key("access", ACCESS, "who may control it ([access](access.md))", OPEN),
        Key("credentials", PATH, "directory of its identity, from `napu ca device`; with `mutual`", "", "none"),
        Key("arguments", ListOf(_TEXT, "texts"), "further arguments of its `napu-node`", (), "none"),
        Key(
            "command",
            ListOf(_TEXT, "texts"),
            "another program in place of `napu-node`; the driver `netns` alone ([below](#another-program))",
            (),
            "`napu-node`",
        ),
        Key("faults_in", FAULTS, "damage to frames that reach it", "", "none"),
        Key("faults_out", FAULTS, "damage to frames that it sends", "", "none"),
        Key("fault_seed", SEED, "of the damage; with `count` each has one more than the one before", 0),
    ),
)

LINK: Final = Shape(
    "link",
    (
        Key("nodes", ListOf(NAME, "names", 1, MAX_APPLIANCES), "at whose cables: nodes, or the `name` of a `count`"),
        Key("mtu", MTU, "bytes of the largest PDU on this cable, at most the lab's; `netns` alone", 0, "the lab's"),
        Key("rate", RATE, "what gets through in a second, in each direction", "", "no limit"),
        Key("faults", FAULTS, "damage in both directions", "", "none"),
        Key("faults_in", FAULTS, "damage on the way to the appliance", "", "none"),
        Key("faults_out", FAULTS, "damage on the way from it", "", "none"),
    ),
)

LAB: Final = Shape(
    "lab",
    (
        Key("name", NAME, "unique among the labs of a user, or of a Docker engine"),
        Key("driver", DRIVER, "what makes the lab; `--driver` comes before it", "", "`netns`"),
        Key("mtu", MTU, "bytes of the largest PDU on every cable", DEFAULT_MTU),
        Key("link", LINK_KIND, "what carries the appliances' frames", "auto"),
        Key("cabling", CABLING, "`direct`: one cable from a host to an appliance; `netns` alone", "switch"),
        Key("hosts", ListOf(HOST, "hosts", 1, MAX_HOSTS), "who sends; commands act as the first", None, "`host`"),
        Key("appliances", ListOf(APPLIANCE, "appliances", 1, MAX_APPLIANCES), "the appliances"),
        Key("links", ListOf(LINK, "links", 0, 256), "what is special about cables", (), "nothing"),
    ),
)

SHAPES: Final = (LAB, HOST, APPLIANCE, LINK)
