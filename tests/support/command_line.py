"""The path of a stock training script, and helpers that read how a command line reports a mistake."""
import os

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'stock_train.py')


def code_of(main, argv):
    try:
        return main(argv)
    except SystemExit as end:  # raised by the parser
        return end.code


def only_line(capsys):
    line, = [line for line in capsys.readouterr().err.splitlines() if ' error: ' in line]
    return line
