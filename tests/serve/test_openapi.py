"""What the API says of itself is true: nothing that fits its description breaks the server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neroli.serve.settings import Settings
from serving import serving

schemathesis = pytest.importorskip("schemathesis")


def test_everything_that_the_description_refers_to_is_in_it(tmp_path: Path) -> None:
    with serving(tmp_path, Settings()) as client:
        described = client.get("/openapi.json").json()
    references = re.findall(r"'\$ref': '#/([^']*)'", str(described))
    assert len(references) > 10
    for reference in references:
        found = described
        for part in reference.split("/"):
            assert part in found, reference
            found = found[part]


def test_nothing_that_the_description_allows_breaks_the_server(tmp_path: Path) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    with serving(tmp_path, Settings()) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert {"/v1/score", "/v1/explain", "/v2/models/{name}/infer", "/metrics"} <= {
            operation.path for operation in operations
        }
        statuses = set()
        for operation in operations:

            @given(case=operation.as_strategy())
            @settings(
                max_examples=8,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def no_failure(case: schemathesis.Case) -> None:
                answer = case.call()
                statuses.add(answer.status_code)
                assert answer.status_code < 500, answer.text
                case.validate_response(
                    answer, checks=[schemathesis.checks.response_schema_conformance]
                )

            no_failure()
    assert 200 in statuses and statuses & {400, 422}
