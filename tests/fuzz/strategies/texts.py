"""Names, paths and values as nobody should write them."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = (
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "~",
        "~nosuchuser/x",
        "a\0b",
        "caf\udce9",
        "a\nerror: b",
        "\x1b[31mred\x1b[0m",
    ),
    *("\u202egnp.exe", "\u2028", "-", "--", "-x", "--json", "=", "a=b", "=b", "a=", ",", "a,b", ",,", "a:b"),
    *("x" * 4000, "x/" * 3000, "/dev/zero", "/dev/stdin", "/proc/self/mem", "/etc/passwd", "/root", "con"),
    *("demo", "demo/", "hf-hub:", "hf-hub:a/b", "hf-hub:../..", "cifar10:", "cifar10:cifar", "cifar10:~x/y"),
    *("timm/x", "vit_no_such_model", "resnet18", "file:///etc/passwd", "http://127.0.0.1:1/x", "%s", "{0}"),
    *("circle", "pipe", "tiny", "small", "set", "set.zip", "weights.pth", "runs/prune", "tiny/plan.json"),
)
NUMBERS = (
    *(
        "0",
        "1",
        "2",
        "-1",
        "8",
        "64",
        "1000",
        "65536",
        "1e3",
        "0.5",
        ".5",
        "1.",
        "-0",
        "1e400",
        "-1e400",
        "nan",
    ),
    *("inf", "-inf", "1e-320", "0x10", "0b1", "1_000", "٣", "½", "1,5", "0.5,0.5", "0.5,", "0.1,0.2,0.3"),
    *(
        "2147483648",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "9" * 60,
        "9" * 5000,
    ),
    *(
        "true",
        "on",
        "None",
        "1 2",
        " 1 ",
        "+1",
        "1e",
        "0.999999999999",
        "1-2",
        "1.0.0",
        "0.0,0.1",
        "5.0",
        "0.7",
    ),
)

names = st.sampled_from(NAMES)
numbers = st.sampled_from(NUMBERS)
anything = st.one_of(names, numbers, st.text(max_size=12))
