"""Refuses a wheel, which `pip install .` builds: `agent` and `envs` are no names beside others' packages."""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class NoWheel(bdist_wheel):
    """In place of the command that builds one; editable installs do without its `run`."""

    def run(self) -> None:
        raise SystemExit(
            "s4dreamer is installed in place, from a checkout: pip install -e . (docs/python.md)"
        )


setup(cmdclass={"bdist_wheel": NoWheel})
