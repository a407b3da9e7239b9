"""A factory given by --model: found in the working folder, called, and its faults reported in one line."""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from common import evaluate, export, latency, train
from common.channels.__main__ import main as show_channels
from common.cli import run
from common.errors import UserError
from common.factory import import_factory
from common.runs import read_json
from common.testing import single_error_line

MODULE = """
import sys
import warnings

import torch
from torch import nn

network = nn.Linear(3, 3)


def build(num_classes=2):
    warnings.warn("a remark", stacklevel=1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def leave():
    sys.exit(3)


def fail():
    raise ValueError("first line\\nsecond line")


def load():
    return torch.load("pickled.pt")
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user in the working folder, which is not on the path, as for a script in another folder."""
    (tmp_path / "own_module_of_user.py").write_text(MODULE)
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit('bye')\n")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield "own_module_of_user"
    for name in ("own_module_of_user", "leaving_module"):
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore:a remark")
def test_factory_in_working_folder_is_found(own_module, tmp_path):
    model = import_factory(f"{own_module}:build", 5)()
    assert isinstance(model, nn.Sequential) and model[-1].out_features == 5
    assert sys.path[-1] == str(tmp_path)  # last, so that it replaces no module that is imported later


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A file of the user in another folder than the working folder, next to files with the names of our packages."""
    nets = tmp_path / "nets"
    nets.mkdir()
    (nets / "mynet.py").write_text(
        "from nets.of_package import STRIDE\nfrom width_of_net import WIDTH\nfrom torch import nn\nimports = []\n\n\n"
        "def build(num_classes=2):\n    from late_part import head\n    imports.append(1)\n"
        "    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, STRIDE), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(WIDTH, num_classes))\n"
    )
    (nets / "width_of_net.py").write_text("WIDTH = 8\n")
    (nets / "of_package.py").write_text("STRIDE = 1\n")
    (nets / "relative.py").write_text("from .width_of_net import WIDTH\n")
    (nets / "late_part.py").write_text("from torch.nn import Linear as head\n")
    for name in ("decore", "json", "scipy"):
        (nets / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    (nets / "broken.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path), str(nets))])
    before = set(sys.modules)
    yield "nets/mynet.py:build"
    for name in set(sys.modules) - before:
        if name.startswith(("mynet", "nets", "width_of", "late_part")):
            del sys.modules[name]


def test_factory_in_file_is_loaded_once_with_its_neighbors(own_file, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mynet", raising=False)  # of another test
    first, again = import_factory(own_file, 5), import_factory(str(tmp_path / own_file), 5)
    model = first()
    assert model[0].out_channels == 8 and model[-1].out_features == 5
    again()
    (module,) = (module for name, module in sys.modules.items() if name.startswith("mynet_"))
    assert module.imports == [1, 1] and "mynet" not in sys.modules


def test_files_next_to_factory_replace_no_module(own_file, tmp_path):
    import_factory(own_file)()
    assert sys.path[-2:] == [str(tmp_path / "nets"), str(tmp_path)]
    found = importlib.util.find_spec("scipy")
    assert found is not None and str(tmp_path) not in str(found.origin)


def test_checkpoint_of_factory_in_file_is_read_by_all_commands(own_file, capsys):
    words = ["--model", own_file, "--no-latency", "--dataset", "digits"]
    assert train.main([*words, "--epochs", "0"]) == 0
    capsys.readouterr()
    file = "runs/digits/mynet.build-0/model.safetensors"
    assert evaluate.main([*words, "--checkpoint", file]) == 0
    top1 = read_json("runs/digits/mynet.build-0/metrics.json")["baseline"]["top1"]
    assert f"top-1   {top1:.2f} %" in capsys.readouterr().out
    shape = ["--input-shape", "3", "16", "16"]
    assert show_channels(["--model", own_file, "--checkpoint", file, *shape]) == 0
    assert export.main(["--model", own_file, "--checkpoint", file, *shape, "--format", "pt2", "--out", "m.pt2"]) == 0
    timing = ["--model", own_file, "--seconds", "0.1", "--batch-size", "1", *shape]
    assert latency.main([*timing, "--checkpoint", file]) == 0
    assert "0.0 |" in capsys.readouterr().out
    assert latency.main([*timing, "--round-to", "1", "--target-macs", "0.5"]) == 0
    assert "50.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--model", "nets/other.py:build"], "nets/other.py is not a file"),
        (["--model", "nets/mynet.py:none"], "no attribute 'none'"),
        (["--model", "nets/mynet.py"], "expected PACKAGE.MODULE:FACTORY or FILE.py:FACTORY"),
        (["--model", "nets/mynet.py:"], "expected PACKAGE.MODULE:FACTORY or FILE.py:FACTORY"),
        (["--model", "nets/broken.py:build"], "invalid syntax"),
        (["--model", "nets/relative.py:build"], "give a file of a package as PACKAGE.MODULE:FACTORY"),
        (
            ["--model", "nets/mynet.py:build", "--input-shape", "1", "8", "8"],
            "does not accept an example of shape (1, 8, 8)",
        ),
        (["--model", "nets/mynet.py:build", "--input-shape", "3"], "does not accept an example of shape (3,)"),
        (["--model", "nets/mynet.py:build"], "--input-shape: the network does not record its input shape"),
        (["--arch", "lenet5", "--input-shape", "3", "32"], "lenet5 reads images, not examples of shape (3, 32)"),
    ],
)
def test_fault_of_file_or_shape_is_one_line(own_file, words, part, capsys):
    shape = [] if "--input-shape" in words or "record" in part else ["--input-shape", "3", "8", "8"]
    assert part in single_error_line(latency.main([*words, *shape]), capsys.readouterr().err)


def test_script_in_another_folder_finds_module_in_working_folder(own_module, tmp_path):
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text("import sys\nfrom common.channels.__main__ import main\nsys.exit(main())\n")
    words = [sys.executable, str(script), "--model", f"{own_module}:build", "--input-shape", "3", "8", "8"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "8 channels" in done.stdout, done.stderr
    assert done.stderr == "warning: a remark\n"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("json:loads", "loads raises TypeError: loads() missing 1 required positional argument"),
        ("os:system", "system raises TypeError: system() missing required argument"),
        ("torch.nn:Linear", "Linear raises TypeError"),
        ("math:sin", "sin raises TypeError: math.sin() takes exactly one argument"),
        ("os:getcwd", "getcwd returns a str, not a network"),
        ("builtins:dict", "dict returns a dict, not a network"),
        ("torch.nn:functional", "functional is a module; give the name of a function"),
        ("own_module_of_user:network", "network is a Linear; give the name of a function"),
        ("own_module_of_user:leave", "leave raises SystemExit"),
        ("own_module_of_user:fail", "fail raises ValueError: first line second line"),
        ("own_module_of_user:load", "load raises UnpicklingError: torch.load rejects the file"),
        ("own_module_of_user:none", "no attribute 'none'"),
        ("leaving_module:build", "leaving_module:build: SystemExit"),
        (":build", "Empty module name"),
        ("own_module_of_user", "expected PACKAGE.MODULE:FACTORY"),
    ],
)
def test_fault_of_factory_is_one_line(own_module, name, part, capsys):
    status = show_channels(["--model", name, "--input-shape", "3", "8", "8"])
    error = single_error_line(status, capsys.readouterr().err)
    assert f"--model {name}: " in error and part in error and "weights_only" not in error and len(error) < 500


def test_missing_factory_is_reported_before_images_are_read(own_module, monkeypatch, capsys):
    monkeypatch.setattr("common.data.load_data", None)
    monkeypatch.setattr("common.trained_model.load_data", None)
    Path("weights.pth").write_bytes(b"")
    for main in (train.main, evaluate.main):
        status = main(["--model", f"{own_module}:absent", "--weights", "weights.pth", "--device", "cpu"])
        single_error_line(status, capsys.readouterr().err, f"{own_module}:absent attribute")


def test_long_reason_is_shortened(monkeypatch):
    def complain() -> None:
        raise ValueError("word " * 10_000)

    monkeypatch.setattr("os.getcwd", lambda: str(Path(__file__).parent))
    monkeypatch.setattr("common.cli.complain", complain, raising=False)
    with pytest.raises(UserError, match=r"complain raises ValueError: (word )+.*characters\)$") as raised:
        import_factory("common.cli:complain")()
    assert len(str(raised.value)) < 500


def test_warning_of_command_is_one_line_without_source(capsys):
    before = warnings.formatwarning
    assert run(lambda _: print(warnings.formatwarning("top-1 is low;\n train longer", UserWarning, "own.py", 3))) == 0
    assert capsys.readouterr().out == "warning: top-1 is low; train longer\n\n"
    assert warnings.formatwarning is before


@pytest.mark.parametrize(
    ("text", "status"), [("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", 2), ("other", None)]
)
def test_memory_error_of_torch_is_one_line(text, status, capsys):
    def work(_: object) -> None:
        raise RuntimeError(text)

    if status is None:
        with pytest.raises(RuntimeError, match=text):
            run(work)
    else:
        assert "out of memory; reduce --batch-size" in single_error_line(run(work), capsys.readouterr().err)
