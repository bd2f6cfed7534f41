"""Keeps what is made from the contract in step with it: generated code, and the descriptor set that is compatibility.

``generate`` makes both anew, and refuses a change that breaks callers unless ``--breaking`` says that it is meant;
``check`` lints the contract and fails if anything is stale. Both need no network.
"""

import argparse
import filecmp
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
GENERATED = ROOT / "clients" / "python"
DESCRIPTOR_SET = PROTOS / "tollkeeper.v1.binpb"
"""The contract as last agreed: what a change is compared with, and what a JSON transcoder reads."""

SITE_PACKAGES = sysconfig.get_path("purelib")
SCRIPTS = Path(sysconfig.get_path("scripts"))
ERROR_DETAILS = "google/rpc/error_details.proto"
"""Carried by every error status, so a transcoder has to know it."""


def main() -> int:
    """Run the command that the arguments name; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Checks or regenerates what is made from protos/.")
    parser.add_argument("command", choices=["check", "generate"])
    parser.add_argument("--breaking", action="store_true", help="accept changes that break callers")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as directory:
            if arguments.command == "check":
                return 0 if check(Path(directory)) else 1
            return 0 if regenerate(Path(directory), may_break=arguments.breaking) else 1
    except subprocess.CalledProcessError:
        return 1  # the compiler has said why


def check(scratch: Path) -> bool:
    """Whether the contract is well written, keeps its promises, and has nothing stale made from it."""
    return lint(scratch) & keeps_promises(scratch) & is_fresh(scratch)


def regenerate(scratch: Path, *, may_break: bool) -> bool:
    """Make everything anew, unless the contract is badly written or breaks callers."""
    if not lint(scratch) or not (may_break or keeps_promises(scratch)):
        return False
    for stale in generated_files(GENERATED):
        (GENERATED / stale).unlink()
    generate(GENERATED, DESCRIPTOR_SET)
    return True


def lint(scratch: Path) -> bool:
    """Whether the contract keeps the lint rules of protos/buf.yaml."""
    image = scratch / "with-comments.binpb"
    describe(image, "--include_source_info")
    return buf("lint", image)


def keeps_promises(scratch: Path) -> bool:
    """Whether callers of the last agreed contract are still understood, in binary and in JSON."""
    if not DESCRIPTOR_SET.exists():
        return True
    image = scratch / "now.binpb"
    describe(image)
    return buf("breaking", image, "--against", DESCRIPTOR_SET)


def is_fresh(scratch: Path) -> bool:
    """Whether generated code and descriptor set are what the contract gives today."""
    code, descriptor_set = scratch / "code", scratch / DESCRIPTOR_SET.name
    code.mkdir()
    generate(code, descriptor_set)
    stale = [
        str(path)
        for path in sorted(generated_files(code) | generated_files(GENERATED))
        if not same(code / path, GENERATED / path)
    ]
    if not same(descriptor_set, DESCRIPTOR_SET):
        stale.append(str(DESCRIPTOR_SET.relative_to(ROOT)))
    for name in stale:
        print(f"{name} is stale: run `make protos`", file=sys.stderr)
    return not stale


def generate(code: Path, descriptor_set: Path) -> None:
    """Write the Python modules below ``code``, and the descriptor set."""
    files = sources("*.proto")
    protoc(f"--python_out={code}", f"--mypy_out=quiet:{code}", *files)
    protoc(f"--grpc_python_out={code}", f"--mypy_grpc_out=quiet:{code}", *sources("*_service.proto"))
    describe(descriptor_set)


def describe(image: Path, *options: str) -> None:
    """Write the contract and all it imports as a descriptor set."""
    protoc(f"--descriptor_set_out={image}", "--include_imports", *options, ERROR_DETAILS, *sources("*.proto"))


def sources(pattern: str) -> list[str]:
    """Paths of the contract's files, as imports name them."""
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob(pattern))


def generated_files(directory: Path) -> set[Path]:
    """Paths of the generated modules below ``directory``."""
    return {path.relative_to(directory) for path in directory.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}


def same(one: Path, other: Path) -> bool:
    """Whether both exist with the same bytes."""
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


def protoc(*arguments: str) -> None:
    """Run the compiler of grpcio-tools; its complaints go to the terminal."""
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{SITE_PACKAGES}"]
    subprocess.run([*command, *arguments], check=True, env={"PATH": str(SCRIPTS)})


def buf(command: str, image: Path, *arguments: str | Path) -> bool:
    """Run ``buf`` on a descriptor set, which needs no network; its findings go to the terminal."""
    config = ("--config", PROTOS / "buf.yaml")
    return subprocess.run([SCRIPTS / "buf", command, image, *config, *arguments], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
