"""noiselib ls: which pipelines there are, and where they stand."""

from __future__ import annotations

import argparse
import json

from noiselib.cli.chosen import chosen
from noiselib.cli.failures import common, told
from noiselib.cli.log import log
from noiselib.cli.spark import locator
from noiselib.errors import SpecError


def ls(arguments: argparse.Namespace) -> int:
    """All pipelines, or those chosen; 2 where a spec among them is broken, which hides no other."""
    pipelines, project = chosen(arguments, everything=True)
    if arguments.output == "name" and not arguments.json:
        for pipeline in pipelines:
            print(pipeline.name)
    else:
        from noiselib.report.listing import listing, listing_text

        entries = listing(pipelines, project.graph, arguments.key, locator(arguments))
        print(json.dumps(entries) if arguments.json else listing_text(entries))
        for entry in entries:
            if entry["problem"] and not entry["broken"]:
                log(f"{entry['pipeline']}: {entry['problem']}")
    return common([told(SpecError(one.problem), arguments.directory) for one in pipelines if one.problem])
