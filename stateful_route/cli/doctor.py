"""``stateful-route doctor``."""

from typing import Annotated

import attrs
from cyclopts import Parameter
from rich.text import Text

from stateful_route.cli.ending import FAILED
from stateful_route.cli.operators import Asking, AskOptions, ask
from stateful_route.cli.options import SHARED, documented
from stateful_route.cli.shown import cell
from stateful_route.ops import Finding, Level

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "bold red"}


@SHARED
@attrs.frozen(kw_only=True, slots=False)
class DoctorOptions(AskOptions):
    """What ``doctor`` is told."""

    service: Annotated[
        tuple[str, ...],
        Parameter(metavar="NAME", help="look at this service; may be given several times; by default all"),
    ] = ()


@documented
def doctor(*, options: DoctorOptions | None = None) -> int:
    """Look for what is wrong with Redis, this user's rights, and the pods; say what to do.

    OK is as it should be. WARN works, and may not for long. BAD does not work, or may lose links. It changes nothing,
    and looks at a bounded number of keys.

    Exit status 1 if anything is BAD.
    """
    told = options or DoctorOptions()

    async def work(asking: Asking) -> int:
        findings = await asking.operator.doctor(told.service)
        for finding in findings:
            if asking.out.json:
                asking.out.record(finding.to_dict())
            else:
                asking.out.show(*_lines(finding))
        return FAILED if any(finding.level is Level.BAD for finding in findings) else 0

    return ask(told, work)


def _lines(finding: Finding) -> list[Text]:
    first = Text.assemble((f"{finding.level.value:<4}  ", _STYLES[finding.level]), cell(finding.what))
    return [first, cell(f"      {finding.advice}", "dim")] if finding.advice else [first]
