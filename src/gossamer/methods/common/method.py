"""What every method is: a name, its settings, and how it turns a base model into one that learns.

A run calls, in this order: `check` (before anything heavy), `stages`, `quantization`, `prepare`;
`resume_stage` if it goes on from a checkpoint; for each stage `enter_stage` (not for the first),
then `optimizer` and `callbacks` while the trainer is built, `save` for each checkpoint; in the end
`export` for the result.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from gossamer.errors import MissingExtraError, SettingError
from gossamer.methods.common.settings import MethodSettings

Kind = Literal[
    "low-rank",
    "gain",
    "sparse",
    "intervention",
    "prefix",
    "vector",
    "bottleneck",
    "side-network",
    "two-stream",
    "other",
    "model",
]
"""What the result does at inference; "model" is a whole model rather than an adapter, "other" an
adapter that PEFT loads and the server does not: merge it into its base first, where that can be."""
NOT_SERVED: frozenset[Kind] = frozenset({"model", "other"})
"""Kinds whose results the server does not answer with."""


Batches = Callable[[int], Iterator[dict[str, Any]]]
"""n -> at most n batches: input_ids, attention_mask, labels, each [rows, tokens] of int64."""


def no_batches(count: int) -> Iterator[dict[str, Any]]:
    """Stand for the batches of a context that belongs to no run; raises `SettingError`."""
    raise SettingError(
        "this method looks at training rows before it starts, and there are none here; give "
        "MethodContext its probe_batches"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContext:
    """What a method may know about the run it works for."""

    model_name: str
    """The base model as the user named it; recorded in the adapter."""
    base_folder: Path
    """Folder of the base model's files."""
    base_fingerprint: str
    """Identity of the base weights; recorded in the adapter."""
    dtype: str
    """Compute type: "float32" or "bfloat16"."""
    device: str
    """A torch device: "cpu", "cuda:0"."""
    seed: int
    total_steps: int
    """Optimizer steps of the run."""
    gradient_checkpointing: bool = False
    probe_batches: Batches = no_batches
    """The first n batches that the run will train on, same rows and order, on `device`; fewer if
    the run has fewer. For `prepare`, where the rows that weights are chosen by must be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a run with an optimizer and a course of the learning rate of its own."""

    name: str
    """Unlike that of the other stages; in the metrics, the checkpoints and the curve."""
    steps: int
    """Optimizer steps, at least one."""
    learning_rate: float | None = None
    """Peak; None: the run's, times `rate_factor`."""
    rate_factor: float = 1.0


S = TypeVar("S", bound=MethodSettings)


class Method(ABC, Generic[S]):
    """A way to learn. Subclasses set the class attributes and have a row in `methods.registry`."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    """One line for lists of methods, of those that others register; the table has ours."""
    kind: Kind
    """May depend on the settings, as `tuner_module` may."""
    settings_type: ClassVar[type[MethodSettings]]
    extra: ClassVar[str | None] = None
    """The optional dependency group of `pip install -e '.[...]'` that the method needs."""
    extra_modules: ClassVar[tuple[str, ...]] = ()
    """The modules which that group must provide."""
    trains_base: ClassVar[bool] = False
    """True: the base weights themselves learn, so they are kept in float32 under autocast."""

    dense_because: ClassVar[str | None] = None
    """Why the base cannot be computed in slices while the method learns (`sparse_compute`), said of
    the method: "it ..."; None: it can be."""

    no_density_loss_because: ClassVar[str | None] = None
    """Why no term of the loss can act on the activations of the model's MLPs while the method
    learns (a `density_loss` above 0), said of it: "it ..."; None: it can."""

    one_process_because: str | None = None
    """Why several processes cannot train together with the method, said of it: "it ..."; None: they
    can. May depend on the settings."""

    last_step_because: str | None = None
    """Why the result can only be that of the last step (no `load_best_at_end`, no `early_stop`),
    said of the method: "it ..."; None: any step's will do. May depend on the settings."""

    whole_base_because: str | None = None
    """Why each process must hold the whole base (no `shard_base`), said of the method: "it ...";
    None: the processes may divide it. May depend on the settings."""

    tuner_module: str | None = None
    """The module to import before PEFT loads the adapter, where the tuner is ours. Whether a whole
    model needs one is told by its config."""

    size_setting: str | None = None
    """The setting that scales how many parameters learn, such as "rank" (a whole number from 1) or
    a density (a share up to 1); None: there is none. May depend on the settings."""

    inputs_kept: ClassVar[bool] = True
    """Whether the inputs of linear layers are kept for the backward pass, as the gradients of what
    learns in or beside those layers need; for the estimate of memory."""

    outputs_kept: ClassVar[float] = 0.0
    """How many times the method keeps the outputs of its linear layers for the backward pass,
    beyond what plain layers keep; for the estimate of memory."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Method[Any]":
        """Build from plain values; raises `SettingError` naming key, value and remedy."""
        settings: Any = cls.settings_type.parse(values, where=f"method '{cls.name}'")
        return cls.with_settings(settings)

    @classmethod
    def with_settings(cls, settings: S) -> "Method[Any]":
        """Make the method with these settings, of another class where they ask for another run."""
        return cls(settings)

    def check(self, context: MethodContext) -> None:
        """Raise before anything heavy happens: `MissingExtraError` if a dependency is absent."""
        for module in self.extra_modules:
            if find_spec(module) is None:
                raise MissingExtraError.of(f"method '{self.name}'", module, self.extra or "")

    def quantization(self, context: MethodContext) -> Any | None:
        """Return transformers' quantization config to load the base with; None: in full."""
        return None

    @abstractmethod
    def prepare(self, model: Any, context: MethodContext) -> Any:
        """Make `model` learn: the model to train, its trainable weights marked by `requires_grad`.

        The global random state is seeded before the call. A model on the meta device has no weights
        and is only to be counted: do not probe it. Raises `SettingError` if the settings do not fit
        the model.
        """

    @abstractmethod
    def save(self, model: Any, folder: Path, context: MethodContext) -> None:
        """Write all that `restore` needs into the empty folder `folder`."""

    @abstractmethod
    def restore(self, model: Any, folder: Path) -> None:
        """Set the learnt weights of the prepared `model` to those that `save` wrote, bit by bit."""

    def export(self, model: Any, folder: Path, context: MethodContext) -> None:
        """Write the result of the run into the empty folder `folder`: what PEFT or transformers
        loads onto the untouched base model. By default what `save` writes."""
        self.save(model, folder, context)

    def layers_kept(self, layers: int) -> int:
        """How many of the model's `layers` decoder layers keep what a backward pass through them
        needs; for the estimate of memory."""
        return layers

    def kept_beside(self, layers: int, hidden: int, size: int) -> int:
        """How many numbers of `size` bytes per token a forward pass keeps that belong to no decoder
        layer, in a model of `layers` layers of width `hidden`; for the estimate of memory."""
        return 0

    def stages(self, context: MethodContext) -> list[Stage]:
        """Return the stages of a run; they add up to `context.total_steps` steps."""
        return [Stage(name=self.name, steps=context.total_steps)]

    def depends_on_total(self) -> bool:
        """Whether what a step does depends on the number of steps of the run, beside the learning
        rate and the stages: such a run cannot be made longer."""
        return False

    def to_be_timed(self, steps: int) -> dict[str, Any]:
        """Return the settings to change for a run of `steps` steps that only measures how long a
        step takes."""
        return {}

    def enter_stage(self, model: Any, index: int, context: MethodContext) -> Any:
        """Make the model of stage `index` (from 1) of the one that the stage before has trained.

        The global random state is seeded before the call. As in `prepare`, a model on the meta
        device is only to be counted.
        """
        raise NotImplementedError(f"method '{self.name}' has one stage")

    def resume_stage(self, model: Any, index: int, folder: Path, context: MethodContext) -> Any:
        """Make of a prepared `model` the one that `save` wrote to `folder` in stage `index`.

        By default the stages are entered one after the other, as if nothing had been learnt, and
        the weights restored. A method whose later stages cannot be built like that overrides this.
        """
        for number in range(1, index + 1):
            model = self.enter_stage(model, number, context)
        self.restore(model, folder)
        return model

    def stage_report(self, index: int) -> dict[str, Any]:
        """Say what is worth recording about the start of stage `index`, which was just entered.

        Numbers go into the metrics, the record and the card; mappings to numbers, such as one per
        matrix, into the metrics only.
        """
        return {}

    def regularizer(self, model: Any) -> Any | None:
        """A scalar tensor whose gradient each step adds to that of the loss; it is no part of the
        reported loss. None: nothing is added."""
        return None

    def trainable_parameters(self, model: Any, context: MethodContext) -> int:
        """How many parameters learn in the last stage; `model` is the base on the meta device, and
        may be changed."""
        model = self.prepare(model, context)
        for index in range(1, len(self.stages(context))):
            model = self.enter_stage(model, index, context)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    def optimizer(self, model: Any, *, learning_rate: float, weight_decay: float) -> Any | None:
        """Return a torch optimizer of the method's own; None: AdamW over all trainable weights."""
        return None

    def callbacks(self, context: MethodContext) -> list[Any]:
        """Return `TrainerCallback`s that act during the run, e.g. to choose other weights."""
        return []
