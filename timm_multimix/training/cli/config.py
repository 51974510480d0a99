"""A YAML file of default arguments, read like the same values on the command line."""
import logging
from typing import Any, Dict, List, Optional

import yaml

from ...checks import UsageError
from .flag import Flag, Parser
from .flags import FLAGS

_logger = logging.getLogger('train')


def read_defaults(parser: Parser, argv: Optional[List[str]] = None) -> None:
    """Make the values in the YAML file of --config the defaults of `parser`, which has all flags."""
    config_parser = Parser(add_help=False)
    FLAGS['config'].add_to(config_parser)
    path = config_parser.parse_known_args(argv)[0].config
    if not path:
        return
    try:
        values = _read(path)
        overlay = values.pop('pretrained_cfg_overlay', None)  # only in a file, as in timm
        if not isinstance(overlay, (dict, type(None))):
            raise UsageError(f'pretrained_cfg_overlay must hold "name: value" lines, got {overlay!r}')
        known = {name: value for name, value in values.items() if name in FLAGS and name != 'config'}
        if unknown := sorted(map(str, values.keys() - known.keys())):  # only a warning: it may be of another version
            _logger.warning(f'--config {path}: unknown names, which have no effect: {", ".join(unknown)}')
        typed = [_as_typed(FLAGS[name], value) for name, value in known.items()]
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
    takes_many = flag.nargs not in (None, '?')
    kind, fits = (
        ('true or false', isinstance(value, bool)) if flag.is_switch else
        ('"name: value" lines', isinstance(value, dict)) if flag.takes_names else
        ('text or numbers' if takes_many else 'one text or number', all(
            isinstance(item, (str, int, float)) and not isinstance(item, bool)
            for item in (value if takes_many and isinstance(value, list) else [value]))))
    if not fits:
        raise UsageError(f'{flag.dest} must be {kind}, got {value!r}')
    if flag.is_switch:
        return [flag.name] * value
    if flag.takes_names:
        return [flag.name, *(f'{name}={item!r}' for name, item in value.items())]
    if takes_many:
        return [flag.name, *map(str, value if isinstance(value, list) else [value])]
    return ['--', str(value)] if flag.is_positional else [f'{flag.name}={value}']
