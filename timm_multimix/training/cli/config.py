"""A YAML file of default arguments, read like the same values on the command line."""
import logging
from typing import Any, Dict, List, Optional

import yaml

from ...checks import UsageError
from .flag import Flag, Parser

_logger = logging.getLogger('train')


def read_defaults(parser: Parser, flags: Dict[str, Flag], argv: Optional[List[str]] = None) -> None:
    """Make the values in the YAML file of --config the defaults of `parser`, which is that of all `flags`, by name."""
    config_parser = Parser(add_help=False)
    flags['config'].add_to(config_parser)
    path = config_parser.parse_known_args(argv)[0].config
    if not path:
        return
    try:
        values = _read(path)
        overlay = values.pop('pretrained_cfg_overlay', None)  # only in a file, as in timm
        if not isinstance(overlay, (dict, type(None))):
            raise UsageError(f'pretrained_cfg_overlay must hold "name: value" lines, got {overlay!r}')
        known = {name: value for name, value in values.items() if name in flags and name != 'config'}
        if unknown := sorted(map(str, values.keys() - known.keys())):  # only a warning: it may be of another version
            _logger.warning(f'--config {path}: unknown names, which have no effect: {", ".join(unknown)}')
        typed = [_as_typed(flags[name], value) for name, value in known.items()]
        typed.sort(key=lambda texts: texts[:1] == ['--'])  # positional arguments last
        parsed = parser.parse_args([text for texts in typed for text in texts])
    except UsageError as error:
        raise UsageError(f'--config {path}: {error}') from error
    parser.set_defaults(pretrained_cfg_overlay=overlay, **{name: getattr(parsed, name) for name in known})


def _read(path: str) -> Dict[Any, Any]:
    try:
        with open(path, encoding='utf-8') as file:
            values = yaml.safe_load(file) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(' '.join(str(error).split())) from error
    if not isinstance(values, dict):
        raise UsageError(f'must hold "name: value" lines, got a {type(values).__name__}')
    return values


def _as_typed(flag: Flag, value: Any) -> List[str]:
    """The part of a command line that gives a flag this value."""
    if type(value) is type(flag.default) and value == flag.default:
        return []
    if flag.is_switch:
        if not isinstance(value, bool):
            raise UsageError(f'{flag.dest} must be true or false, got {value!r}')
        return [flag.name] if value else []
    if flag.takes_names:
        if not isinstance(value, dict):
            raise UsageError(f'{flag.dest} must hold "name: value" lines, got {value!r}')
        return [flag.name, *(f'{name}={item!r}' for name, item in value.items())]
    if value is None:
        raise UsageError(f'{flag.dest} must have a value, got {value!r}')
    takes_many = flag.nargs not in (None, '?')
    if isinstance(value, list) and not takes_many:
        raise UsageError(f'{flag.dest} must be one value, got {value!r}')
    values = value if isinstance(value, list) else [value]
    for item in values:  # names and paths may look like a number
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            kind = 'text' if flag.type in (None, str) else flag.type.__name__
            raise UsageError(f'{flag.dest} must be {kind}, got {value!r}')
    texts = [str(item) for item in values]
    if takes_many:
        return [flag.name, *texts]
    return ['--', *texts] if flag.is_positional else [f'{flag.name}={texts[0]}']
