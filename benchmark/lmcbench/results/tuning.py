"""The file of `lmcbench tune`: accuracies of all settings of a suite's sweep, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmcbench.errors import UserError, printable
from lmcbench.results.record_parser import check_schema
from lmcbench.results.record_types import LARGEST, SLACK
from lmcbench.spec.canonical import canonical_json, digest
from lmcbench.spec.learning import did_not_learn
from lmcbench.spec.recipe import EngineName, Recipe
from lmcbench.spec.suite import Suite
from lmcbench.spec.suite_files import explain
from lmcbench.spec.sweep import MAX_SETTINGS, TUNED, TUNING_REPLICATES, setting_text
from lmcbench.untrusted import parse_json, read_bytes

TUNING = "tuning.json"
"""Name of the file in a folder of `tune` and in a submission."""

TUNING_SCHEMA = "lmcbench/tuning/1"

TUNING_BYTES = 256_000
"""Largest tuning file; one of 24 settings takes about 40 kB."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=2_000)]
Nats = Annotated[float, Field(ge=-SLACK, le=LARGEST)]

TrainingStatus = Literal["ok", "diverged", "did-not-learn", "failed"]


class Table(BaseModel):
    """A table of a tuning file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Training(Table):
    """One independent network of one setting and replicate.

    Attributes:
        reason: why the status is not `ok`.
        accuracy: on the held-out images, a fraction; None if the training diverged or failed.
        train_loss: mean mini-batch loss of the last pass in nats; None likewise.
        label_entropy: of the training images' labels, in nats.
    """

    replicate: int = Field(ge=TUNING_REPLICATES.start, lt=TUNING_REPLICATES.stop)
    status: TrainingStatus
    reason: Text | None = None
    accuracy: float | None = Field(default=None, ge=0, le=1)
    train_loss: Nats | None = None
    label_entropy: Nats

    @model_validator(mode="after")
    def _check_status(self) -> Training:
        measured = self.accuracy is not None and self.train_loss is not None
        if measured != (self.status in ("ok", "did-not-learn")):
            raise ValueError("accuracy and train_loss are given where a training ended, and nowhere else")
        if self.train_loss is not None:
            learned = not did_not_learn(self.train_loss, self.label_entropy)
            if learned != (self.status == "ok"):
                raise ValueError(f"status {self.status} does not follow from the training loss")
        return self


class Setting(Table):
    """One setting of the sweep with its networks, by replicate."""

    recipe: Recipe
    trainings: list[Training] = Field(
        min_length=len(TUNING_REPLICATES), max_length=len(TUNING_REPLICATES), strict=False
    )

    @model_validator(mode="after")
    def _check_replicates(self) -> Setting:
        if [one.replicate for one in self.trainings] != list(TUNING_REPLICATES):
            raise ValueError(
                f"trainings must be those of replicates {TUNING_REPLICATES[0]} to "
                f"{TUNING_REPLICATES[-1]}, in order"
            )
        return self

    @property
    def accuracies(self) -> list[float] | None:
        """Held-out accuracy by replicate; None if the setting is excluded because one did not train."""
        found = [one.accuracy for one in self.trainings if one.status == "ok" and one.accuracy is not None]
        return found if len(found) == len(self.trainings) else None


class TuningSuite(Table):
    """The suite, and the digest of what the results depend on (`Suite.tuning_digest`)."""

    name: Text
    version: int = Field(ge=1, le=10**9)
    digest: Sha256
    tuning_digest: Sha256


class TuningArchitecture(Table):
    """The network, as in keys of cells."""

    label: Text
    name: Text
    kwargs: dict[str, Any]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    adapt: Text | None = None

    @model_validator(mode="after")
    def _check_size(self) -> TuningArchitecture:
        if len(canonical_json(self.kwargs)) > 4_000:
            raise ValueError("kwargs have more than 4,000 characters")
        return self

    def identity(self) -> dict[str, Any]:
        """Return it as `Architecture.identity` does."""
        return self.model_dump(exclude={"label"}, exclude_none=True)


class TuningData(Table):
    """The training set of the suite: trained on and held out, in images of each replicate."""

    name: Text
    sha256: Sha256
    trained_on: int = Field(ge=1, le=2**53)
    held_out: int = Field(ge=1, le=2**53)


class TuningCost(Table):
    """What the sweep took.

    Attributes:
        train_flop: training FLOPs of all networks.
        train_s: seconds of training, summed over networks.
    """

    engine: EngineName
    device: Text
    train_flop: float = Field(ge=0, le=LARGEST)
    train_s: float = Field(ge=0, le=LARGEST)
    versions: dict[Text, Text | None] = Field(max_length=50)


class Tuning(Table):
    """A tuning file: every setting of the sweep in its order, and the index of the chosen one.

    Attributes:
        choice: index into `settings`; None if no setting trained in every replicate.
    """

    schema_: str = Field(alias="schema")
    suite: TuningSuite
    architecture: TuningArchitecture
    data: TuningData
    settings: list[Setting] = Field(min_length=1, max_length=MAX_SETTINGS)
    choice: int | None = Field(ge=0, lt=MAX_SETTINGS)
    cost: TuningCost

    @model_validator(mode="after")
    def _check_choice(self) -> Tuning:
        expected = choose(self.settings)
        if self.choice != expected:
            raise ValueError(f"choice is {self.choice}, by the rule it is {expected}")
        for setting in self.settings:
            for one in setting.trainings:
                right = (one.accuracy or 0.0) * self.data.held_out
                if abs(right - round(right)) > 1e-6 * max(right, 1):
                    raise ValueError(f"accuracy {one.accuracy} is not a share of {self.data.held_out} images")
        return self

    @property
    def recipe(self) -> Recipe:
        """The chosen setting.

        Raises:
            UserError: if there is none.
        """
        if self.choice is None:
            raise UserError(
                f"No setting of the sweep of {self.suite.name} trains {self.architecture.label} in every "
                "replicate, so there is no tuned recipe. Change the network or the suite's sweep."
            )
        return self.settings[self.choice].recipe

    def to_json(self) -> str:
        """Return the file's text; equal results give equal text."""
        return canonical_lines(self.model_dump(by_alias=True, mode="json", exclude_none=False))

    def check(self, suite: Suite, origin: str) -> None:
        """Compare the file with the suite's digest and sweep; `origin` names the file.

        Raises:
            UserError: if it is of another suite, version, digest or sweep.
        """
        found, wanted = self.suite, suite.identity()
        if found.model_dump(exclude={"tuning_digest"}) != wanted:
            raise UserError(
                f"{origin} is of suite {found.name} version {found.version} with digest {found.digest[:12]}, "
                f"not {wanted['name']} version {wanted['version']} with digest {wanted['digest'][:12]}. "
                f"Tune the network on this suite: lmcbench tune SUITE --arch '{self.architecture.label}'"
            )
        listed = [] if suite.sweep is None else suite.sweep.settings
        if found.tuning_digest != suite.tuning_digest or [s.recipe for s in self.settings] != listed:
            raise UserError(f"{origin} does not have the settings of the sweep of suite {suite.name}.")

    def check_architecture(self, identity: Mapping[str, Any], label: str, origin: str) -> None:
        """Compare the network with an `Architecture.identity()`; `origin` names the file.

        Raises:
            UserError: if they differ.
        """
        own = self.architecture.identity()
        if canonical_json(own) != canonical_json(dict(identity)):
            same = own["name"] == identity["name"] and own["kwargs"] == identity["kwargs"]
            version = (
                f" in another version (fingerprint {own['fingerprint']}, here {identity['fingerprint']})"
                if same
                else ""
            )
            raise UserError(
                f"{origin} is the tuning of {self.architecture.label}{version}, not of {label}. A recipe is "
                "tuned for one network; run 'lmcbench tune' for this one."
            )


def canonical_lines(table: Mapping[str, Any]) -> str:
    """Return a table as JSON with one setting a line, so that differences can be read."""
    parts = []
    for key, value in table.items():
        if key == "settings":
            rows = ",\n".join(f"  {canonical_json(row)}" for row in value)
            parts.append(f' "settings": [\n{rows}\n ]')
        else:
            parts.append(f" {canonical_json(key)}: {canonical_json(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def choose(settings: Sequence[Setting]) -> int | None:
    """Return the index of the chosen setting; None if every one is excluded.

    The best mean accuracy wins, the first in file order where means are equal. Settings of the same
    optimizer whose paired difference to it is under one standard error tie: the larger learning rate wins,
    then the larger weight decay, then file order (docs/design.md, section 9.4).
    """
    scores = {i: found for i, s in enumerate(settings) if (found := s.accuracies) is not None}
    if not scores:
        return None
    best = max(scores, key=lambda i: (round(math.fsum(scores[i]), 12), -i))
    optimizer = settings[best].recipe.optimizer
    tied = [
        i for i in scores if settings[i].recipe.optimizer == optimizer and _is_tie(scores[best], scores[i])
    ]
    return max(tied, key=lambda i: (settings[i].recipe.lr, settings[i].recipe.weight_decay, -i))


def _is_tie(best: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether the mean paired difference is zero or under one standard error."""
    differences = [a - b for a, b in zip(best, other, strict=True)]
    n = len(differences)
    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    return abs(mean) < 1e-12 or mean < math.sqrt(variance / n)


def parse_tuning(content: bytes, origin: str) -> Tuning:
    """Return a tuning file from its bytes; `origin` names it in errors.

    Raises:
        UserError: if it is damaged, of a newer schema, or its choice does not follow from its results.
    """
    table = parse_json(content, origin, limit=TUNING_BYTES)
    check_schema(table, origin, TUNING_SCHEMA)
    try:
        return Tuning.model_validate(table)
    except ValidationError as error:
        raise UserError(explain(error, origin, Tuning)) from None


def read_tuning(path: Path) -> Tuning:
    """Read a tuning file, or that of a folder of `tune`; raises `UserError` as `parse_tuning`."""
    file = path / TUNING if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"There is no tuning file {printable(str(file))}. Write one with: lmcbench tune SUITE --arch NAME"
        )
    return parse_tuning(read_bytes(file, limit=TUNING_BYTES), str(file))


def tuning_key(identity: Mapping[str, Any]) -> str:
    """Return the name of a network's tuning file in a run folder, 16 hex digits."""
    return digest(dict(identity))[:16]


# --- which recipes are tuned ---------------------------------------------------------------------


def committed_tunings(name: str) -> Iterator[Tuning]:
    """Yield the tuning files of a published suite, `suites/tuning/NAME/*.json`."""
    folder = files("lmcbench.suites") / "tuning" / name
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".json"):
            yield parse_tuning(file.read_bytes(), f"suites/tuning/{name}/{file.name}")


def is_tuned(suite: Suite, label: str, fingerprint: str, recipe: Mapping[str, Any]) -> bool:
    """Return whether a network was trained by the choice of `lmcbench tune`.

    A recipe named `tuned` is: runs and submissions with it contain the file. A suite's own recipe is, where
    it equals the choice of a file in suites/tuning/ for this network.

    Args:
        suite: the suite.
        label: of the network, with adaptation and arguments.
        fingerprint: of the network's definition.
        recipe: as in a record: `name` and the settings.
    """
    if suite.sweep is None:
        return False
    if recipe.get("name") == TUNED:
        return True
    settings = {key: value for key, value in recipe.items() if key in Recipe.model_fields}
    try:
        found = Recipe.model_validate(settings)
    except ValidationError:
        return False
    for tuning in committed_tunings(suite.name):
        network = tuning.architecture
        same = (network.label, network.fingerprint) == (label, fingerprint)
        if same and tuning.suite.digest == suite.digest and tuning.choice is not None:
            return tuning.recipe == found
    return False


def describe_choice(tuning: Tuning) -> str:
    """Return the chosen setting and its accuracy, for people."""
    chosen = tuning.recipe
    accuracies = tuning.settings[tuning.choice or 0].accuracies or []
    mean = math.fsum(accuracies) / len(accuracies)
    return f"{setting_text(chosen)}: accuracy {100 * mean:.2f} % on held-out images"
