"""A YAML file of default arguments, read like the same values on the command line."""
import logging
from typing import Any, Dict, List, Optional

import yaml

from ...checks import UsageError
from .flag import Flag, Parser

_logger = logging.getLogger('train')


def read_defaults(parser: Parser, flags: Dict[str, Flag], argv: Optional[List[str]] = None) -> None:
    """Make the values in the YAML file of --config the defaults of `parser`.

    Args:
        parser: The parser of these flags.
        flags: All flags, by argument name.

    Raises:
        UsageError: If the file cannot be read, or a flag does not accept its value.
    """
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
        unknown = sorted((name for name in values if name not in flags or name == 'config'), key=str)
        if unknown:  # only a warning, as in timm: the file may be from another version
            _logger.warning(f'--config {path}: unknown names, which have no effect: {", ".join(map(str, unknown))}')
        known = {name: value for name, value in values.items() if name not in unknown}
        parsed = parser.parse_args(_as_typed(known, flags))
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


def _as_typed(values: Dict[str, Any], flags: Dict[str, Flag]) -> List[str]:
    """A command line that gives these values."""
    options, positionals = [], []
    for name, value in values.items():
        flag = flags[name]
        if type(value) is type(flag.default) and value == flag.default:
            continue
        if flag.is_positional:
            positionals += ['--', *_texts(flag, value)]
        else:
            options += _option(flag, value)
    return options + positionals


def _option(flag: Flag, value: Any) -> List[str]:
    if flag.is_switch:
        if not isinstance(value, bool):
            raise UsageError(f'{flag.dest} must be true or false, got {value!r}')
        return [flag.name] if value else []
    texts = _texts(flag, value)
    return [flag.name, *texts] if flag.takes_many else [f'{flag.name}={texts[0]}']


def _texts(flag: Flag, value: Any) -> List[str]:
    if flag.takes_names:
        if not isinstance(value, dict):
            raise UsageError(f'{flag.dest} must hold "name: value" lines, got {value!r}')
        return [f'{name}={item!r}' for name, item in value.items()]
    if value is None:
        raise UsageError(f'{flag.dest} must have a value, got {value!r}')
    if isinstance(value, list) and not flag.takes_many:
        raise UsageError(f'{flag.dest} must be one value, got {value!r}')
    values = value if isinstance(value, list) else [value]
    for item in values:  # names and paths may look like a number
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            kind = 'text' if flag.type in (None, str) else flag.type.__name__
            raise UsageError(f'{flag.dest} must be {kind}, got {value!r}')
    return [str(item) for item in values]
