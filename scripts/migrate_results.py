"""Rewrite what older commits stored by today's names: ``python scripts/migrate_results.py [FILE_OR_FOLDER ...]``.

It renames modules, options and their values in stored commands, the same options in configurations, and keys of result files.
Results of ``compare`` that do not name a variant are those of the methods that are called ``NAME_extended`` today (VARIANTS), also in
the names of their folders. Without arguments it rewrites all result files of the repository; run folders are given by name. A second
call changes nothing.
It stays until the campaign has ended, for results that arrive from an older commit. The keys of ``metrics.json`` are a contract
and keep their names.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# {package: {module: its name today}}
MODULES: dict[str, dict[str, str]] = {
    "common": {"results": "reporting.results", "tables": "paper.tables"},
    "compare": {"tables": "paper.tables"},
    "decore": {"tables": "paper.tables"},
    "deep_compression": {name: f"paper.{name}" for name in ("cifar10", "mnist", "tables")}
    | dict.fromkeys(("choice", "paper.choice"), "paper.select_settings")
    | dict.fromkeys(("figures", "paper.figures"), "paper.make_plots"),
    "model_preserving_id": {
        **{
            name: f"paper.{name}"
            for name in ("diagrams", "experiments.missing_class", "experiments.ratios", "experiments.wide", "tables")
        },
        **dict.fromkeys(("experiments.volume", "paper.experiments.volume"), "paper.experiments.conv3d"),
    },
    "redundancy_graph": {"tables": "paper.tables"},
    "rewarded_metapruning": {
        "diagrams": "paper.diagrams",
        "evaluate": "train_chosen",
        "paper.small_scale": "paper.search_vs_random",
        "small_scale": "paper.search_vs_random",
        "tables": "paper.tables",
        "train": "train_pruning_net",
    },
}
# {package: {option: its name today}}; in configurations without the dashes
OPTIONS: dict[str, dict[str, str]] = {
    "common": {},
    "compare": {"--baseline": "--checkpoint", "--figure": "--metric"},
    "decore": {
        "--pictures": "--policy-images",
        "--test-pictures": "--test-images",
        "--baseline": "--reward-baseline",
        "--init": "--agent-init",
        "--refresh": "--bn-images",
        "--weigh-macs": "--reward-by-macs",
        "--slack": "--accuracy-margin",
        "--reward-top": "--reward-topk",
        "--top": "--reward-topk",  # in configurations only
        "--drop": "--drop-fractions",
        "--random-orders": "--random-trials",
    },
    "deep_compression": {
        "--alive": "--std-of-nonzero",
        "--choice": "--settings-dir",
        "--init": "--centroid-init",
        "--no-lossless": "--skip-validated",
        "--rows": "--settings",
        "--share-epochs": "--quantize-epochs",
        "--share-learning-rate": "--quantize-learning-rate",
    },
    "model_preserving_id": {
        "--distill": "--distill-weight",
        "--how": "--method",
        "--pictures": "--images",
        "--refresh": "--update-every",
        "--refresh-bn": "--recalibrate-bn",
        "--skip": "--ignored-layers",
        "--solve-batch-size": "--reconstruction-images",
        "--solve-with": "--reconstruction-images",
        "--streams": "--residual",
    },
    "redundancy_graph": {
        "--decider": "--similarity-layer",
        "--pictures": "--images",  # of benchmarks/similarity.py
    },
    "rewarded_metapruning": {
        "--beside": "--also-train",
        "--pictures": "--train-images",
        "--scales": "--scale-range",
    },
}
# {package: {option as it is called today, or --key of a result file: {value: its name today}}}; "" stands for positional
# arguments in front of options
VALUES: dict[str, dict[str, dict[str, str]]] = {
    "common": {},
    "compare": {},
    "decore": {},
    "deep_compression": {
        "": {"share": "quantize"},
        "--settings": {"best": "smallest", "lossless": "validated"},
        "--stage": {"share": "quantize"},  # in configurations
    },
    "model_preserving_id": {
        "--residual": {"off": "keep"},
        "--row": {
            "best-refresh-bn": "best-recalibrate-bn",
            "pictures-100": "images-100",
            "pictures-2000": "images-2000",
            "pictures-5000": "images-5000",
            "refresh-bn": "recalibrate-bn",
            "score-measured": "score-output-change",
            "streams-conv": "residual-conv",
            "streams-exact": "residual-exact",
        },
        "--score": {"measured": "output-change"},
    },
    "redundancy_graph": {"--similarity-layer": {"nearest": "first"}},
    "rewarded_metapruning": {},
}
# {package: {key of a result file: its name today}}
KEYS: dict[str, dict[str, str]] = {
    "common": {},
    "compare": {},
    "decore": {"pictures": "images", "deviation": "std"},
    "deep_compression": {
        "lossless": "validated",
        "pictures": "images",
        "row": "settings",
        "share_epochs": "quantize_epochs",
    },
    "model_preserving_id": {
        "pictures": "images",
        "pictures_solved_with": "reconstruction_images",
        "pruning": "calibration",
        "refused": "unreachable",
        "test_pictures": "test_images",
    },
    "redundancy_graph": {"absorbed": "merged", "ours": "this repository"},
    "rewarded_metapruning": {
        "claimed": "published",
        "judged_top1": "candidate_top1",
        "pictures": "train_images",
        "scales": "scale_range",
    },
}
# {package: {key of a result file as it is called today: {value: its name today}}}
KEY_VALUES: dict[str, dict[str, dict[str, str]]] = {
    "deep_compression": {
        "settings": {"best": "smallest", "lossless": "validated"},
        "what": {"lossless": "validated"},
    },
}
# {package: {text of a benchmark's result: its wording today}}
TEXTS: dict[str, dict[str, str]] = {
    "redundancy_graph": {
        "similarity and selection, 64 filters of 32x32, 100 pictures": "similarity and selection, 64 filters of 32x32, 100 images",
        "1000 pictures": "1000 images",
        "augmented pictures (B6)": "augmented images (B6)",
        "all layers of a stream decide": "all layers of a residual stream",
        "maps by position (B2)": "feature maps by position (B2)",
    },
}
# {package: {part of a result file's name: its name today}}
FILES: dict[str, dict[str, str]] = {
    "deep_compression": {"-best-": "-smallest-", "-lossless-": "-validated-"},
}
# {method of a result of compare without a variant: (name, variant, label and note of the same method today)}
VARIANTS: dict[str, tuple[str, str, str, str]] = {
    "decore": (
        "decore_extended",
        "extended",
        "DECORE (extended)",
        "differs from the paper: the agents are trained in a short phase with the network frozen, with a penalty fitted to the training "
        "accuracy; channels are removed in the order of the agents' weights until the target is met",
    ),
    "deep_compression": (
        "deep_compression_extended",
        "extended",
        "Deep Compression (extended)",
        "differs from the paper: equally spaced centroids without k-means iterations, rounded to bfloat16; entropy-coded weights and "
        "positions; one density for all layers, chosen to meet the target",
    ),
    "l1_norm": (
        "l1_norm",
        "reference",
        "L1 norm",
        "prunes all channel groups, including residual streams; weights are not re-solved",
    ),
    "model_preserving_id": (
        "model_preserving_id_extended",
        "extended",
        "model-preserving ID (extended)",
        "differs from the paper: widths by the measured change of the outputs, in one pass; the consumers' weights are re-solved by least squares",
    ),
    "random": (
        "random",
        "reference",
        "random",
        "prunes all channel groups, including residual streams; weights are not re-solved",
    ),
    "redundancy_graph": (
        "redundancy_graph",
        "paper",
        "redundancy graph (paper)",
        "the similarity threshold is searched to meet the target; networks with option-A shortcuts, where the authors' have 3x3 convolutions",
    ),
    "rewarded_metapruning": (
        "rewarded_metapruning_extended",
        "extended",
        "rewarded meta-pruning (extended)",
        "differs from the paper: the generated weights are used, the network is not trained from scratch; a short search with Adam in a "
        "narrow range of widths around the target",
    ),
    "torch_pruning": (
        "torch_pruning",
        "reference",
        "torch-pruning",
        "uses labels: Taylor importance from the gradients of 256 labeled training images; prunes all channel groups, including "
        "residual streams; weights are not re-solved",
    ),
}
# {key of a benchmark file (results/speed-*.json) or of one of its values: its name today}; in all packages
BENCHMARK_KEYS = {"ratios": "values", "what": "quantity", "against": "compared_with"}
UNREACHABLE = ("unreachable.json", "refused.json")  # of compare: the job whose target cannot be reached
SCRIPT = re.compile(r"(?:.*/)?(\w+\.(?:py|sh))")


def migrated_command(command: str, package: str) -> str:
    """A command by today's names. package: that of the folder in which it is typed."""
    words = shlex.split(command)
    if words and words[0].startswith("python -m "):  # quoted as one word
        words = [*words[0].split(), *words[1:]]
    new = [*_migrated_words(words, package)]
    return command if new == shlex.split(command) else shlex.join(new)


def _migrated_words(words: Sequence[str], package: str) -> Iterator[str]:
    option = ""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if i and words[i - 1] == "-m":
            package, word = _module(word, package)
        elif SCRIPT.fullmatch(word) and (owner := _owner(word)):
            package = owner
        elif word == "--":  # another command follows
            option = ""
        elif name.startswith("--"):
            option = OPTIONS[package].get(name, name)
            word = option + equals + _value(package, option, value)
        else:
            word = _value(package, option, word)
        yield word


def _module(name: str, package: str) -> tuple[str, str]:
    """The package and the name today of a module."""
    owner, _, rest = name.partition(".")
    if owner not in MODULES:
        return package, name
    renamed = MODULES[owner].get(rest, rest)
    return owner, f"{owner}.{renamed}" if renamed else owner


def _owner(script: str) -> str | None:
    """The package that a script's path names, or the only one that has such a script; else None."""
    named = next((part for part in reversed(Path(script).parts) if part in OPTIONS), None)
    having = [package for package in OPTIONS if (ROOT / package / script).is_file()]
    return named or (having[0] if len(having) == 1 else None)


def _value(package: str, option: str, value: str) -> str:
    return VALUES[package].get(option, {}).get(value, value)


def migrated(content: Any, package: str, in_options: bool = False) -> Any:
    """The content of a JSON file by today's names. package: that of its folder, unless the file says otherwise."""
    if isinstance(content, list):
        return [migrated(value, package, in_options) for value in content]
    if not isinstance(content, Mapping):
        return content
    if content.get("package") in OPTIONS:
        package = content["package"]
    if package == "compare":
        content = _with_variant(content, in_options)
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key.endswith("command") and isinstance(value, str):
            value = migrated_command(value, package)
        if in_options:
            option = "--" + key.replace("_", "-")
            option = OPTIONS[package].get(option, option)
            if option[2:] != key.replace("_", "-"):
                key = option[2:].replace("-", "_")
            if isinstance(value, str):
                value = _value(package, option, value)
        elif {"ratios", "medians"} <= content.keys() or {"against", "bound"} <= content.keys():
            key = BENCHMARK_KEYS.get(key, key)
        else:
            key = KEYS[package].get(key, key)
            if isinstance(value, str):
                value = _value(package, f"--{key}", value)
                value = KEY_VALUES.get(package, {}).get(key, {}).get(value, value)
                value = TEXTS.get(package, {}).get(value, value)
        found[key] = migrated(value, package, in_options or key in ("options", "config", "settings"))
    return found


def _with_variant(content: Mapping[str, Any], in_options: bool) -> Mapping[str, Any]:
    """A result or a configuration of compare with the variant of its method; anything else as it is."""
    if {"findings", "cpu_minutes"} & content.keys() and "rows" in content:  # today they are computed from the rows
        return {key: value for key, value in content.items() if key not in ("findings", "cpu_minutes", "minutes")}
    if "variant" in content or content.get("method") not in VARIANTS or "targets" not in content:
        return content
    name, variant, label, note = VARIANTS[content["method"]]
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key != "note":
            found[key] = value
        if key == "method":
            found |= {"method": name, "variant": variant}
    if found.get("chain"):
        found["chain"] = [_method_today(method) for method in found["chain"]]
    if in_options:
        return found
    found |= {"label": label, "note": note}
    if "folder" in found:
        found["folder"] = "/".join(_folder_today(part) for part in found["folder"].split("/"))
    if "command" in found:
        found["command"] = _command_today(found["command"])
    return found


def _method_today(name: str) -> str:
    return VARIANTS[name][0] if name in VARIANTS else name


def _folder_today(name: str) -> str:
    """The name of a result's folder: decore-macs0.5, decore+deep_compression-macs0.5-bytes0.1, step1-decore."""
    if step := re.fullmatch(r"(step\d+-)(\w+)", name):
        return step[1] + _method_today(step[2])
    methods, dash, target = name.partition("-")
    return "+".join(_method_today(method) for method in methods.split("+")) + dash + target


def _command_today(command: str) -> str:
    """A command of compare whose --methods and --chain have the names of today."""
    words, option = shlex.split(command), ""
    for i, word in enumerate(words):
        if word.startswith("--"):
            option = word
        elif option in ("--methods", "--chain"):
            words[i] = ",".join(_method_today(name) for name in word.split(","))
    return shlex.join(words)


def rename_folders(place: Path) -> list[Path]:
    """Rename the folders of compare's results that do not name a variant, and return them. A name that is in use is kept."""
    old: set[Path] = set()
    for file in place.rglob("config.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        options = content.get("options", {}) if isinstance(content, dict) else {}
        if content.get("package") != "compare" or "variant" in options or options.get("method") not in VARIANTS:
            continue
        result = file.parent.parent if options.get("chain") else file.parent
        methods = options.get("chain") or [options["method"]]
        old |= {file.parent, result, *(result.parent / "shared" / method for method in methods)}
    renamed = []
    for folder in sorted(old, reverse=True):  # steps before their chains
        new = folder.with_name(_folder_today(folder.name))
        if new != folder and folder.is_dir() and not new.exists():
            folder.rename(new)
            renamed.append(new)
    for file in (file for folder in renamed for file in folder.glob("*.json") if file.name in UNREACHABLE):
        content = json.loads(file.read_text(encoding="utf-8"))
        content["job"]["methods"] = [_method_today(name) for name in content["job"]["methods"]]
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return renamed


def migrate(file: Path) -> bool:
    """Rewrite a JSON file, formatted as it is, and rename it in a folder ``results``; return whether it changed."""
    package = next((part for part in reversed(file.resolve().parts) if part in OPTIONS), "common")
    text = file.read_text(encoding="utf-8")
    content = json.loads(text)
    new = migrated(content, package)
    if new != content:
        file.write_text(_as_formatted(text, content, new), encoding="utf-8")
    name = file.name
    for old, today in FILES.get(package, {}).items() if file.parent.name == "results" else ():
        name = name.replace(old, today)
    if name != file.name:
        file.rename(file.with_name(name))
    return new != content or name != file.name


def _as_formatted(text: str, content: Any, new: Any) -> str:
    for indent in (None, 1, 2, 4):
        for ascii_only in (True, False):
            for end in ("", "\n"):
                if json.dumps(content, indent=indent, ensure_ascii=ascii_only) + end == text:
                    return json.dumps(new, indent=indent, ensure_ascii=ascii_only) + end
    return json.dumps(new, indent=2) + "\n"


def main(argv: Sequence[str]) -> None:
    """Rewrite files, and all JSON files in folders, and print which."""
    places = [Path(word) for word in argv] or sorted(ROOT.glob("[!.]*/results"))
    for folder in (folder for place in places if place.is_dir() for folder in rename_folders(place)):
        print(folder)
    for file in sorted(file for place in places for file in (place.rglob("*.json") if place.is_dir() else [place])):
        if migrate(file):
            print(file)


if __name__ == "__main__":
    main(sys.argv[1:])
