"""All settings of MultiMix, in one object that is checked once."""
import difflib
import inspect
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, TypedDict, Union

from .checks import Alpha, UsageError, check_alpha, check_choice, check_integer, check_number
from .functional import ACTIVATIONS, ATTENTION_KINDS, CONCENTRATIONS, IMPLEMENTATIONS

MODES = ('multimix', 'dense-multimix')
MAX_CLEAN_WEIGHT = 1000.

POOLED_TUPLES = 1000
DENSE_TUPLES = 8192
"""Default numbers of tuples per step; those of the dense form are divided among the positions."""
DENSE_TUPLES_RANGE = (32, 1000)
"""The least and the most of them at one position."""

PAPER = dict(num_tuples=1000, alpha=(0.5, 2.0), concentration='example', length=None, clean_weight=0.)
"""The literal setting of the paper (arXiv 2311.05538, section 4), as keyword arguments, for long schedules."""


@dataclass(frozen=True, repr=False)
class Settings:
    """Settings of MultiMix, the keyword arguments of `MultiMixTask`; the other classes take those that they use.

    Args:
        mode: 'multimix' mixes pooled embeddings (arXiv 2311.05538, section 3.2), 'dense-multimix' those of every
            position, weighted by attention (section 3.3).
        num_tuples: Number of tuples n per step, in the dense form per position. None: 1,000, or in the dense form 8,192
            divided among the positions, at least 32 and at most 1,000 for each.
        alpha: Dirichlet concentration, or a (low, high) range from which one is drawn per step. A lower one keeps
            tuples closer to single examples.
        length: Number of examples per tuple m; None for the whole batch. Change it to compare with pairs (2).
        concentration: 'total': alpha is the sum over the examples of a tuple, so that the batch size does not change
            the strength of mixing; 'example': alpha is that of each example, as in the paper, where every tuple of a
            large batch is nearly the batch mean.
        clean_weight: Weight w of the plain cross-entropy added to the mixed one, from 0 (mixed loss alone) to 1000.
            Raise it if even the training images are not fitted; lower it to make the model less confident.
        label_smoothing: Share of every target that is spread over all classes; None: that of the criterion, else 0.
        implementation: See `functional.mixed_cross_entropy`.
        gamma: Weight γ of the targets in the mixed loss γ·H(ΛY, p) + (1 - γ)·H(p', p) with a teacher (arXiv 2206.14868,
            section 3.3), in [0, 1]; None for 0.5. Label smoothing and the clean term do not involve the teacher.
        strength: Factor of `prob`, in [0, 1]. 'auto': it follows how far the training images are fitted, see
            `AdaptiveStrength`; mixed batches then have no label smoothing.
        attention: How far an image's label is trusted at each position: 'gap', 'cam' or 'none', see
            `functional.spatial_attention`.
        activation: Activation of the attention: 'relu' or 'softmax'.
        attention_grad: Differentiate through the attention, by the slow literal loss. If False, it is a constant.
        input_size: `(channels, height, width)` of the example input to the model; None: the model's own size.
        mixup_alpha: Mixup of the images is active if > 0; its λ ~ Beta(mixup_alpha, mixup_alpha).
        cutmix_alpha: CutMix of the images is active if > 0; its λ ~ Beta(cutmix_alpha, cutmix_alpha).
        cutmix_minmax: CutMix with box sides of (min, max) shares of the image's sides instead; active if not None.
        prob: Probability that a batch is mixed at all, as in timm.
        switch_prob: Probability of CutMix instead of Mixup if both are active.
        correct_lam: Correct CutMix's λ if the border of the image clips the box.
        input_prob: Probability that a mixed batch has its images mixed, not its embeddings, if Mixup or CutMix is
            active.
        multi_label: Targets are independent labels `[b, c]` in [0, 1]; smoothing then pulls each towards 0.5.
        gather: Mix over the batches of all processes, with gradient. Every process draws its own tuples; DDP averages
            their losses. All must have the same batch size.
        teacher_decay: Decay of the teacher's average, in [0, 1]; None for no teacher.
        teacher_warmup: Let that decay grow from 0, by timm's schedule.
        single_view: The teacher sees the student's view.

    Raises:
        ValueError: If a setting is out of range, or has no effect in this mode.
    """
    mode: str = 'multimix'
    num_tuples: Optional[int] = None
    alpha: Alpha = 2.0
    length: Optional[int] = None
    concentration: str = 'total'
    clean_weight: float = 3.0
    label_smoothing: Optional[float] = None
    implementation: str = 'auto'
    gamma: Optional[float] = 0.5
    strength: Union[float, str] = 1.
    attention: str = 'gap'
    activation: str = 'relu'
    attention_grad: bool = False
    input_size: Optional[Tuple[int, int, int]] = None
    mixup_alpha: float = 0.
    cutmix_alpha: float = 0.
    cutmix_minmax: Optional[Sequence[float]] = None
    prob: float = 1.
    switch_prob: float = 0.5
    correct_lam: bool = True
    input_prob: float = 0.5
    multi_label: bool = False
    gather: bool = False
    teacher_decay: Optional[float] = None
    teacher_warmup: bool = False
    single_view: bool = False

    def __post_init__(self):
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name, allowed in _CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        check_choice('implementation', self.implementation, ('auto', *IMPLEMENTATIONS))
        for name in ('num_tuples', 'length'):
            if getattr(self, name) is not None:
                put(name, check_integer(name, getattr(self, name)))
        put('alpha', check_alpha(self.alpha))
        put('gamma', 0.5 if self.gamma is None else self.gamma)
        if self.cutmix_minmax is not None:
            put('cutmix_alpha', 1.)
            pair = self.cutmix_minmax
            if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and 0. <= pair[0] < pair[1] <= 1.):
                raise UsageError(f'cutmix_minmax must be (min, max) with 0 <= min < max <= 1, got {pair!r}')
        if self.input_prob == 'auto':
            raise UsageError("input_prob must be a number, got 'auto', which strength='auto' replaces")
        if isinstance(self.strength, str) and self.strength != 'auto':
            raise UsageError(f"strength must be a number from 0 to 1 or 'auto', got {self.strength!r}")
        if self.is_adaptive and self.multi_label:
            raise UsageError("strength must be a number with multi_label=True, got 'auto' (it follows top-1 accuracy)")
        for name, high in _RANGES.items():
            value = getattr(self, name)
            is_unset = value is None and getattr(Settings, name) is None
            if not (is_unset or name == 'strength' and self.is_adaptive):
                put(name, check_number(name, value, **({} if high is None else {'high': high})))
        if self.is_adaptive and self.mixes_images and self.input_prob == 1.:
            raise UsageError(
                "input_prob must be below 1 with strength='auto', which follows the accuracy on unmixed images, got 1")
        for parent, (allowed, names) in _NEEDED.items():
            for name in names if getattr(self, parent) not in allowed else ():
                if getattr(self, name) != getattr(Settings, name):
                    raise UsageError(
                        f'{name} needs {parent} {" or ".join(map(repr, allowed))}, '
                        f'got {name}={getattr(self, name)!r} with {getattr(self, parent)!r}')
        if self.attention_grad and self.implementation not in ('auto', 'reference'):
            raise UsageError(
                f"implementation must be 'auto' or 'reference' with attention_grad=True, got {self.implementation!r}")
        for name in ('teacher_warmup', 'single_view') if self.teacher_decay is None else ():
            if getattr(self, name):
                raise UsageError(f'{name} needs teacher_decay, which turns self-distillation on, got {name}=True')

    def __repr__(self) -> str:
        return f'Settings({self.listed(*(name for name in NAMES if getattr(self, name) != getattr(Settings, name)))})'

    @classmethod
    def of(cls, owner: type, arguments: type, given: Mapping[str, Any], **others: Any) -> 'Settings':
        """Return the settings for keyword arguments that the class `owner` was given.

        Args:
            owner: The class, for the message.
            arguments: TypedDict of the keyword arguments that it has.
            given: Keyword arguments of the user.
            **others: Settings of other arguments.

        Raises:
            ValueError: If `owner` has no argument of such a name: the message says which one is meant.
        """
        for name, value in given.items():
            if name not in arguments.__annotations__:
                known = [*inspect.signature(owner).parameters, *arguments.__annotations__]
                meant = [_FLAG_NAMES.get(name)] if _FLAG_NAMES.get(name) in known else difflib.get_close_matches(
                    name, known, 1)
                hint = '; MultiMixTask has' if name in NAMES else f'; did you mean {meant[0]}?' if meant else ''
                raise UsageError(f'{owner.__name__} has no argument {name}, got {name}={value!r}{hint}')
        return cls(**{**given, **others})

    @property
    def is_adaptive(self) -> bool:
        """True for strength 'auto'."""
        return self.strength == 'auto'

    @property
    def mixes_images(self) -> bool:
        """True if Mixup or CutMix of the images is active."""
        return self.mixup_alpha > 0. or self.cutmix_alpha > 0.

    def tuples(self, positions: Optional[int] = None) -> int:
        """Return the number of tuples n per step, in the dense form per position; `positions` is None if pooled."""
        if self.num_tuples is not None or positions is None:
            return self.num_tuples or POOLED_TUPLES
        low, high = DENSE_TUPLES_RANGE
        return min(max(round(DENSE_TUPLES / positions), low), high)

    def in_force(self) -> Dict[str, Any]:
        """Return the settings that have an effect and may have been left to their defaults."""
        names = 'num_tuples', 'alpha', 'concentration', 'length', 'clean_weight', 'implementation', 'gather', 'strength'
        names += ('attention', 'activation') * (self.mode == 'dense-multimix') + ('input_prob',) * self.mixes_images
        names += ('gamma', 'single_view') * (self.teacher_decay is not None)
        return {name: getattr(self, name) for name in names}

    def listed(self, *names: str) -> str:
        """Return these settings as the text of keyword arguments."""
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)

    def describe(self, positions: Optional[int] = None) -> str:
        """Say in words what is mixed and how strongly; `positions` is None for the pooled form."""
        alpha = f'{self.alpha[0]:g} to {self.alpha[1]:g}' if isinstance(self.alpha, tuple) else f'{self.alpha:g}'
        parts = [
            f'{self.mode}: {self.tuples(positions)} tuples'
            + ('' if positions is None else f' x {positions} position{"s" * (positions > 1)}')
            + f' of {self.length or "all"} examples',
            f'alpha {alpha} for each {"tuple" if self.concentration == "total" else "example"}',
            f'clean weight {self.clean_weight:g}',
        ]
        if positions is not None:
            activation = '' if self.attention == 'none' else f' ({self.activation})'
            parts.append(f'attention {self.attention}{activation}')
        parts.append(
            f'label smoothing {self.label_smoothing or 0.:g}' + ' of batches that are not mixed' * self.is_adaptive)
        if self.teacher_decay is not None:
            parts += [f'teacher_decay {self.teacher_decay:g}', f'gamma {self.gamma:g}']
        if self.gather:
            parts.append('over all processes')
        return f'{", ".join(parts)}; {self.describe_images()}'

    def describe_images(self) -> str:
        """Say in words which batches have their images mixed, and how."""
        strength = 'auto' if self.is_adaptive else f'{self.strength:g}'
        prob = ('' if self.prob == 1. else f', prob {self.prob:g}') + (
            '' if self.strength == 1. else f', strength {strength}')
        if not self.mixes_images:
            return f'no image mixing{prob}'
        kinds = [f'Mixup (mixup_alpha {self.mixup_alpha:g})'] if self.mixup_alpha else []
        if self.cutmix_minmax is not None:
            kinds.append(f'CutMix (cutmix_minmax {tuple(self.cutmix_minmax)})')
        elif self.cutmix_alpha:
            kinds.append(f'CutMix (cutmix_alpha {self.cutmix_alpha:g})')
        share = 100. * self.input_prob * self.prob * (1. if self.is_adaptive else self.strength)
        switch = f', switch_prob {self.switch_prob:g}' if len(kinds) == 2 else ''
        up_to = 'up to ' if self.is_adaptive else ''
        return f'{" or ".join(kinds)} of the images on {up_to}{share:g} % of the batches{switch}{prob}'


NAMES = tuple(field.name for field in fields(Settings))
_FLAG_NAMES = dict(  # of timm's script
    mixup='mixup_alpha', cutmix='cutmix_alpha', mixup_prob='prob', mixup_switch_prob='switch_prob',
    mixup_mode='mode', smoothing='label_smoothing')
_CHOICES = dict(
    mode=MODES, concentration=CONCENTRATIONS, attention=ATTENTION_KINDS, activation=ACTIVATIONS,
    attention_grad=(False, True))
_RANGES = dict(  # from 0 to so much, or without an upper bound
    clean_weight=MAX_CLEAN_WEIGHT, label_smoothing=1., gamma=1., strength=1., mixup_alpha=None, cutmix_alpha=None,
    prob=1., switch_prob=1., input_prob=1., teacher_decay=1.)
_NEEDED = dict(  # the values of a setting without which others have no effect
    mode=(('dense-multimix',), ('attention', 'activation', 'attention_grad', 'input_size')),
    attention=(('gap', 'cam'), ('activation', 'attention_grad')))


def former_attribute(name: str) -> property:
    """Return a property for a setting that was an attribute of its own; to set it still works, with a warning."""
    def assign(self: Any, value: object) -> None:
        warnings.warn(
            f'settings are read-only: use loss.settings = dataclasses.replace(loss.settings, {name}=...); to set '
            f'loss.{name} will be an error in 0.3', DeprecationWarning, stacklevel=2)
        self.settings = replace(self.settings, **{name: value})

    return property(lambda self: getattr(self.settings, name), assign)


# The keyword arguments of each class, for editors and type checkers.

class MixArguments(TypedDict, total=False):
    alpha: Alpha
    length: Optional[int]
    concentration: str
    clean_weight: float
    strength: Union[float, str]


class LossArguments(MixArguments, total=False):
    label_smoothing: Optional[float]
    implementation: str
    gamma: Optional[float]


class DenseArguments(TypedDict, total=False):
    num_tuples: Optional[int]
    attention: str
    activation: str
    attention_grad: bool
    input_size: Optional[Tuple[int, int, int]]


class HeadArguments(MixArguments, DenseArguments, total=False):
    label_smoothing: Optional[float]
    implementation: str


class DropInArguments(MixArguments, DenseArguments, total=False):
    input_prob: float


class TaskArguments(LossArguments, DenseArguments, total=False):
    mode: str
    mixup_alpha: float
    cutmix_alpha: float
    cutmix_minmax: Optional[Sequence[float]]
    prob: float
    switch_prob: float
    correct_lam: bool
    input_prob: float
    multi_label: bool
    gather: bool
    teacher_decay: Optional[float]
    teacher_warmup: bool
    single_view: bool
