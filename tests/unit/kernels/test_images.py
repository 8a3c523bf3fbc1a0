"""Images of compiled kernels: linked right, used only when whole and ours, loaded without the compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from potsherd.crypto.eris.backend import PlainBackend
from potsherd.kernels import image, llvm
from potsherd.kernels.buffers import held
from potsherd.kernels.choice import COMPILE_BYTES_MIN, Kernel, cache_folder
from potsherd.kernels.eris import PLAIN_STATE, ErisKernel
from potsherd.kernels.eris_ir import eris_module
from potsherd.kernels.llvm import KernelUnavailable

pytest.importorskip("llvmlite")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="images are for Linux")

TARGET = llvm.targets()[-1]
NAME = image.file_name("eris", TARGET.name) or ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an image file."""
    folder = tmp_path_factory.mktemp("made")
    ErisKernel(TARGET, cache=folder)
    (file,) = folder.iterdir()
    assert file.name == NAME
    return file.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, whole: bytes) -> Path:
    """A cache with one image in it."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (cache / NAME).write_bytes(whole)
    return cache


def test_what_is_mapped_computes(folder: Path) -> None:
    kernel = ErisKernel(TARGET, cache=folder, compiling=False)
    data = bytes(range(256)) * 20
    assert kernel.target == TARGET
    assert kernel.references(data, 1024) == PlainBackend().references(data, 1024)


@pytest.mark.parametrize("at", [0, 20, 60, image.PAGE, -1])
def test_a_changed_byte_is_found_out(folder: Path, whole: bytes, at: int) -> None:
    torn = bytearray(whole)
    torn[at] ^= 1
    (folder / NAME).write_bytes(torn)
    assert image.open_image(folder, NAME) is None


@pytest.mark.parametrize("size", [0, 10, 100, image.PAGE, image.PAGE + 100])
def test_a_short_file_is_made_again(folder: Path, whole: bytes, size: int) -> None:
    (folder / NAME).write_bytes(whole[:size])
    with pytest.raises(KernelUnavailable):
        ErisKernel(TARGET, cache=folder, compiling=False)
    ErisKernel(TARGET, cache=folder)
    assert (folder / NAME).read_bytes() == whole


def test_a_folder_that_others_can_write_to_is_not_trusted(folder: Path) -> None:
    folder.chmod(0o770)
    assert image.open_image(folder, NAME) is None


def test_another_processor_or_target_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert image.file_name("eris", None) != NAME
    monkeypatch.setattr(image, "_processor", lambda: b"another one")
    assert image.file_name("eris", TARGET.name) != NAME


def test_images_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(image.CACHE_FILES_MAX + 3):
        path = tmp_path / f"{number}.kernel"
        image.keep(tmp_path, path.name, image.Image("t", {"f": 0}, b"\xc3"))
        os.utime(path, (number, number))
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == image.CACHE_FILES_MAX
    assert "0.kernel" not in names


def test_only_what_an_image_can_hold_is_linked() -> None:
    text = "declare void @elsewhere()\ndefine void @f() {\n call void @elsewhere()\n ret void\n}\n"
    for wrong in (llvm.compile_object(text, TARGET), b"", b"\x7fELF" + bytes(200)):
        with pytest.raises(image.NotLinkable):
            image.link(wrong, "t")
    data = "@x = global i64 1\ndefine void @f() {\n store i64 2, ptr @x\n ret void\n}\n"
    with pytest.raises(image.NotLinkable):
        image.link(llvm.compile_object(data, TARGET), "t")


def test_the_compiler_is_not_loaded_for_an_image(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from potsherd.kernels.eris import ErisKernel;"
        "from potsherd.kernels.llvm import TARGETS;"
        f"t = next(t for t in TARGETS if t.name == {TARGET.name!r});"
        f"ErisKernel(t, cache=Path({str(folder)!r}), compiling=False);"
        "sys.exit('llvmlite' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Loads:
    """Notes how it was called; unavailable until `there`."""

    def __init__(self) -> None:
        self.calls: list[bool] = []
        self.there = False

    def __call__(self, compiling: bool) -> str:
        self.calls.append(compiling)
        if not (self.there or compiling):
            raise KernelUnavailable("no image")
        return "kernel"


def test_little_work_compiles_nothing_and_much_does_once() -> None:
    loads = Loads()
    kernel = Kernel(loads)
    assert [kernel.get(COMPILE_BYTES_MIN // 4) for _ in range(5)] == [None] * 3 + ["kernel"] * 2
    assert loads.calls == [False, True]


def test_an_image_serves_the_first_call() -> None:
    loads = Loads()
    loads.there = True
    assert Kernel(loads).get(1) == "kernel"
    assert loads.calls == [False]


USES_ALL = """
import sys
from potsherd.crypto.eris.backend import self_check
from potsherd.kernels import choice
from potsherd.kernels.gf_llvm import LlvmEngine
{before}
assert choice.eris_kernel(self_check).now() is not None
assert isinstance(choice.gf_engine(), LlvmEngine)
print("compiler" if "llvmlite" in sys.modules else "images")
"""


@pytest.mark.parametrize(
    ("before", "by"),
    [
        ("", "images"),
        ("choice.BUILD = ('-c', 'raise SystemExit(1)')", "compiler"),
        ("choice.BUILD, choice.BUILD_TIMEOUT_S = ('-c', 'while 1: pass'), 0.2", "compiler"),
        ("sys.executable = ''", "compiler"),
        ("sys.executable = '/nowhere/python'", "compiler"),
    ],
)
def test_the_compiler_is_loaded_only_where_no_other_process_makes_images(
    tmp_path: Path, before: str, by: str
) -> None:
    """It takes a hundred megabytes, at the very time at which a put has most of its own."""
    done = subprocess.run(
        [sys.executable, "-c", USES_ALL.format(before=before)],
        env={**os.environ, "POTSHERD_KERNEL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [by]


def test_all_homes_of_a_user_share_one_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than putting a small dataset: a new home does not pay it again."""
    monkeypatch.delenv("POTSHERD_KERNEL_CACHE")
    folders = set()
    for home in ("/srv/one", "/srv/two"):
        monkeypatch.setenv("POTSHERD_HOME", home)
        folders.add(cache_folder())
    (folder,) = folders
    assert not folder.is_relative_to("/srv")


def test_switched_off_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTSHERD_KERNELS", "off")
    loads = Loads()
    assert Kernel(loads).now() is None
    assert loads.calls == []


def test_held_buffers_are_not_copied_and_cannot_be_resized() -> None:
    target, source = bytearray(b"abc"), b"xyz"
    with held([source, memoryview(source)[1:]], [target]) as ((first, second), _):
        assert second == first + 1
        with pytest.raises(BufferError):
            target += b"d"
    target += b"d"
    with pytest.raises(BufferError), held([], [source]):
        pass
    with pytest.raises(BufferError), held([memoryview(source)[::2]]):
        pass


def test_neon_in_an_emulator() -> None:
    """The image for aarch64 computes what it should, where `unicorn` (an emulator) is installed."""
    unicorn = pytest.importorskip("unicorn")
    register = pytest.importorskip("unicorn.arm64_const")

    neon = next(target for target in llvm.TARGETS if target.name == "neon")
    text = eris_module(neon.vector_bits)
    made = image.link(llvm.compile_object(text, neon, triple="aarch64-unknown-linux-gnu"), "neon")
    cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    code, data, out, stack, end = 0x400000, 0x10000000, 0x10100000, 0x10FF0000, 0x4FF000
    state = 0x10200000
    cpu.mem_map(code, 0x100000)
    cpu.mem_map(data, 0x1000000)
    blocks = bytes(range(256)) * 20
    cpu.mem_write(code, made.code)
    cpu.mem_write(data, blocks)
    cpu.reg_write(register.UC_ARM64_REG_CPACR_EL1, 3 << 20)
    cpu.reg_write(register.UC_ARM64_REG_SP, stack)
    cpu.reg_write(register.UC_ARM64_REG_LR, end)
    cpu.mem_write(state, PLAIN_STATE)
    for number, argument in enumerate((data, out, 5, 1024, state)):
        cpu.reg_write(register.UC_ARM64_REG_X0 + number, argument)
    cpu.emu_start(code + made.functions["blake2b_batch"], end)
    assert bytes(cpu.mem_read(out, 160)) == PlainBackend().references(blocks, 1024)
