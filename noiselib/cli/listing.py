"""noiselib ls: which pipelines there are, and where they stand."""

from __future__ import annotations

import argparse
import json

from noiselib.cli.chosen import chosen
from noiselib.cli.log import log


def ls(arguments: argparse.Namespace) -> int:
    """All pipelines, or those chosen; 2 where a spec among them is broken, which hides no other."""
    pipelines, project = chosen(arguments, everything=True)
    if arguments.output == "name" and not arguments.json:
        for pipeline in pipelines:
            print(pipeline.name)
    else:
        from noiselib.report.listing import listing, listing_text

        entries = listing(pipelines, project.graph)
        print(json.dumps(entries) if arguments.json else listing_text(entries))
        for entry in entries:
            if entry["problem"] and not entry["broken"]:
                log(f"{entry['pipeline']}: {entry['problem']}")
    for pipeline in pipelines:
        if pipeline.problem:
            log(f"SpecError: {pipeline.problem}")
    return 2 if any(pipeline.problem for pipeline in pipelines) else 0
