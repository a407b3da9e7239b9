"""DECORE as ``compare`` calls it: agents on the frozen network, the cut moved to the budget, no fine-tuning."""

from dataclasses import replace
from pathlib import Path

from common.checkpoint import save_model
from common.formats import load_network
from common.methods import Method, Task
from common.runs import open_stage
from common.trained import Trained
from decore.phases import cut, decide, identity, policy_phase
from decore.plan import PACKAGE, Plan, PolicyOptions

SEEN = 16_000  # pictures that the policy phase sees, epochs together: half a minute of a small ResNet on one core
PICTURES = 4_000
POLICY = PolicyOptions(learning_rate=0.1, frozen=True)
SLACK = 0.05


def compress(task: Task) -> Path:
    """Agents learn on training pictures as they are; the channels of lowest probability go until the budget is met."""
    model = load_network(task.baseline)
    record = getattr(model, "architecture", None)
    name = record["arch"] if record else task.baseline.stem
    trained = Trained(model, task.data, name, task.baseline, device=task.device)
    plan = plan_for(task)
    run = open_stage(
        task.folder, PACKAGE, identity(trained) | plan.identity(), device=task.device, fingerprint=task.data.fingerprint
    )
    if not run.finished:
        # what agents learn does not depend on the budget: one policy for all of a seed's
        policy = policy_phase(trained, plan, (task.shared or task.folder) / "policy", say=_silent)
        least, kept = decide(policy, plan)
        pruned, data = cut(trained, policy, plan, kept), task.data
        save_model(run.model_path, pruned, normalize=(data.mean, data.std), dataset=data.name, classes=data.classes)
        run.finish({"policy": policy.metrics, "least_weight": least, "kept": {n: len(k) for n, k in kept.items()}})
    return run.model_path


def plan_for(task: Task) -> Plan:
    """A short policy phase whose penalty fits the network's training accuracy, and a cut at the budget."""
    pictures = min(PICTURES, len(task.data.train))
    recipe = replace(task.recipe, epochs=max(1, round(SEEN / pictures)), batch_size=64, augment=False)
    return Plan(
        policy=POLICY, policy_recipe=recipe, recipe=replace(task.recipe, epochs=0), auto_penalty=True, slack=SLACK,
        pictures=pictures, target_macs=task.target, seed=task.seed,
    )  # fmt: skip


def _silent(line: str) -> None:
    """``compare`` prints one table for all methods."""


METHOD = Method(label="DECORE", compress=compress, trains=True, paper="Alwani et al. 2022")
