"""The declaration of one flag: its type, its default, the values it accepts, and the flags it needs or excludes."""
import argparse
import difflib
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from timm.utils import ParseKwargs

from ...checks import UsageError


class Allowed(NamedTuple):
    """The values that a flag accepts, among those of its type: `text` completes the sentence "--flag must ..."."""
    text: str
    holds: Callable[[Any], bool]


def numbers(value: Any) -> List[float]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [x for x in values if isinstance(x, (int, float)) and not isinstance(x, bool)]


def each_number(text: str, holds: Callable[[float], bool]) -> Allowed:
    return Allowed(text, lambda value: all(map(holds, numbers(value))))


FROM_0 = each_number('be >= 0', lambda x: x >= 0)


class Given:
    """A condition on other flags: one of them is given or, with `values`, one flag has one of these values.

    `names` are those of arguments, such as 'batch_size'; `why` is a reason for the message.
    """

    def __init__(self, *names: str, values: Sequence[str] = (), why: str = ''):
        self.names, self.values, self.why = names, values, why
        self.text = any_of([*map(flag_name, names)]) + (f' {any_of(values)}' if values else '')


class Flag:
    """One flag, as argparse takes it, and the conditions on its value and on other flags.

    The conditions `needs` must all hold if it is given, and none of `excludes`. The help shows `shown_default` if the
    library chooses the default. Messages use the first long one of its names.
    """

    def __init__(
            self, *names: str, help: str, default: Any = None, shown_default: Any = None,
            allowed: Optional[Allowed] = None, needs: Tuple[Given, ...] = (), excludes: Tuple[Given, ...] = (),
            **form: Any,
    ):
        self.names, self.help, self.default, self.shown_default = names, help, default, shown_default
        self.allowed, self.needs, self.excludes, self.form = allowed, needs, excludes, form
        self.type, self.nargs, self.choices = map(form.get, ('type', 'nargs', 'choices'))
        self.name = next((name for name in names if name.startswith('--')), names[0])
        self.dest = self.name.lstrip('-').replace('-', '_')
        self.is_positional = not self.name.startswith('-')
        self.is_switch = form.get('action') == 'store_true'
        self.takes_names = form.get('action') is NamedValues

    def is_given(self, value: Any) -> bool:
        return value is not None and value != '' and value != self.default

    def add_to(self, parser: Any) -> None:
        default = self.shown_default if self.default is None else self.default
        shown = '' if default in (None, '', {}, []) or default is False else f' (default: {_as_typed(default)})'
        parser.add_argument(*self.names, default=self.default, help=self.help + shown, **self.form)


Group = Tuple[str, Tuple[Flag, ...]]


class Parser(argparse.ArgumentParser):
    """Raises a UsageError, where argparse would exit after a usage message that is longer than a screen."""

    def error(self, message: str):
        unknown = message.partition('unrecognized arguments: ')[2].split()[:1]
        meant = [name for text in unknown for name in difflib.get_close_matches(
            text, self._option_string_actions, 1, 0.8)]
        raise UsageError(f'{message} ({f"did you mean {meant[0]}? " if meant else ""}--help lists the flags)')


class NamedValues(ParseKwargs):
    """key=value arguments; timm's own action ends in a traceback if there is no '='."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if not value.split('=', 1)[0].isidentifier() or '=' not in value:
                raise argparse.ArgumentError(self, f'must be key=value, got {value!r}')
        super().__call__(parser, namespace, values, option_string)


def take(args: argparse.Namespace, *names: str) -> Dict[str, Any]:
    """Arguments of a function of timm that has the names of the flags."""
    return {name: getattr(args, name) for name in names}


def flag_name(name: str) -> str:
    return '--' + name.replace('_', '-')


def any_of(names: Sequence[str]) -> str:
    """A list in words: 'a, b or c'."""
    *first, last = names
    return f'{", ".join(first)} or {last}' if first else last


def _as_typed(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ' '.join(map(_as_typed, value))
    return f'{value:g}' if isinstance(value, float) else str(value)
