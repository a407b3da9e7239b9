"""A trial of an NNI experiment over DECORE's penalty: the same runs as ``prune_model.py --penalty 50 100 200 500``.

``compare.sweep`` starts experiments; what it needs of a paper is here: ``SEARCH_SPACE``, ``trial`` and this module as the
trial's command, ``python -m decore.nni_sweep OPTIONS``, where OPTIONS are those of prune_model.py without --penalty. NNI
(extra ``nni``) gives the penalty and is told top-1 on the hold-out pictures (``--holdout``, 0.1 if not given: a sweep is a
choice, and choices see no test picture), beside it the share of the MACs that is left.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import cli
from common.errors import UserError
from common.runs import METRICS, read_json
from decore.command import build_parser
from decore.command import main as prune
from decore.options import labels

SEARCH_SPACE = {"penalty": {"_type": "choice", "_value": [50, 100, 200, 500]}}
HOLDOUT = "0.1"


def trial(parameters: Mapping[str, Any], words: Sequence[str]) -> dict[str, float]:
    """One run of prune_model.py: {"default": top-1 in percent, "macs_kept": share of the dense MACs}.

    What is finished is read, not run again. Raises UserError where the run ends with a mistake.
    """
    words = [*words, "--penalty", f"{parameters['penalty']:g}"]
    if "--holdout" not in words:
        words += ["--holdout", HOLDOUT]
    if prune(words) != 0:
        raise UserError(f"prune_model.py did not finish with penalty {parameters['penalty']:g}; its own line says why")
    args = build_parser().parse_args(words)
    name = args.model.replace(":", ".") if args.model else args.arch
    (label,) = labels(name, args.penalty, args.target_macs)
    metrics = read_json(Path(args.saved_dir) / label / METRICS)
    share = metrics["compressed"]["macs"] / metrics["baseline"]["macs"]
    return {"default": metrics["compressed"]["top1"], "macs_kept": share}


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(_main, argv)


def _main(argv: Sequence[str] | None) -> None:
    try:
        import nni
    except ImportError as error:
        raise UserError("an NNI trial needs nni: pip install -c constraints-nni.txt './common[nni]'") from error
    words = list(sys.argv[1:] if argv is None else argv)
    nni.report_final_result(trial(nni.get_next_parameter() or {"penalty": 50}, words))


if __name__ == "__main__":
    sys.exit(main())
