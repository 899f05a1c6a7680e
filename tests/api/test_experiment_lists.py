"""GET /experiments: filters and paging."""

import base64

import httpx
import pytest

from tests.factories import expect_problem, experiment_body, make_experiment, take, unique, walk


def test_list__empty_project__is_an_empty_page(empty_project: httpx.Client) -> None:
    assert empty_project.get("/experiments").json() == {"items": [], "next_cursor": None}


def test_list__walked_by_cursor__shows_each_once_newest_first(empty_project: httpx.Client) -> None:
    made = [make_experiment(empty_project, state="draft")["id"] for _ in range(7)]
    sizes, seen, cursor = [], [], None
    while True:
        page = empty_project.get("/experiments", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        sizes.append(len(page["items"]))
        seen += [item["id"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
        make_experiment(empty_project, state="draft")  # What comes in between does not shift the pages.
    assert (sizes, seen) == ([3, 3, 1], made[::-1])


@pytest.mark.parametrize("limit", [1, 2, 4, 200])
def test_list__page_of_exactly_the_rest__ends_without_an_empty_page(empty_project: httpx.Client, limit: int) -> None:
    made = [make_experiment(empty_project, state="draft")["id"] for _ in range(4)]
    assert [item["id"] for item in walk(empty_project, "/experiments", limit=limit)] == made[::-1]
    if limit == 4:
        assert empty_project.get("/experiments", params={"limit": 4}).json()["next_cursor"] is None


def test_list__without_limit__shows_fifty(empty_project: httpx.Client) -> None:
    for _ in range(51):
        make_experiment(empty_project, state="draft")
    page = empty_project.get("/experiments").json()
    assert len(page["items"]) == 50
    assert page["next_cursor"] is not None


def test_list__status__shows_those_alone(empty_project: httpx.Client) -> None:
    made = {
        state: make_experiment(empty_project, state=state)["id"]
        for state in ("draft", "running", "paused", "completed", "archived")
    }
    for state, experiment_id in made.items():
        items = empty_project.get("/experiments", params={"status": state}).json()["items"]
        assert [item["id"] for item in items] == [experiment_id]


def test_list__key_prefix__takes_underscores_as_they_are(empty_project: httpx.Client) -> None:
    for key in ("a_b1", "a_b2", "axb3"):
        make_experiment(empty_project, state="draft", key=key)
    items = empty_project.get("/experiments", params={"key_prefix": "a_b"}).json()["items"]
    assert [item["key"] for item in items] == ["a_b2", "a_b1"]


@pytest.mark.parametrize(
    ("q", "found"),
    [("CHECKOUT", {"one", "two"}), ("100%", {"three"}), ("_", {"three"}), ("näh", {"three"}), ("nowhere", set())],
)
def test_list__q__searches_key_name_and_description_literally(
    empty_project: httpx.Client, q: str, found: set[str]
) -> None:
    make_experiment(empty_project, state="draft", key="one", name="New Checkout")
    make_experiment(empty_project, state="draft", key="two", description="about the checkout")
    make_experiment(empty_project, state="draft", key="three", name="100% näher, a_b")
    items = empty_project.get("/experiments", params={"q": q}).json()["items"]
    assert {item["key"] for item in items} == found


def test_list__filters_with_paging__hold_on_every_page(empty_project: httpx.Client) -> None:
    wanted = []
    for index in range(6):
        made = make_experiment(empty_project, state="draft", key=unique("yes" if index % 2 else "no"))
        if index % 2:
            wanted.append(made["id"])
    found = walk(empty_project, "/experiments", limit=1, key_prefix="yes", status="draft", q="experiment")
    assert [item["id"] for item in found] == wanted[::-1]


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=201", "limit=-1", "limit=x", "limit=1e2", "status=unknown", "status=DRAFT"),
        *("cursor=%21", "cursor=abc", "cursor=MQ%3D%3D%3D%3D", "cursor=%F0%9F%98%80", "cursor=LTE", "cursor=MS41"),
        *("page=2", "offset=1", "limit=1&sort=name", "q=", "q=%00", f"q={'x' * 201}", "key_prefix=A", "key_prefix=%25"),
    ],
)
def test_list__wrong_query__is_422_and_names_the_parameter(client: httpx.Client, query: str) -> None:
    problem = expect_problem(client.get(f"/experiments?{query}"), 422)
    names = {part.split("=")[0] for part in query.split("&")}
    assert {error["field"] for error in problem["errors"]} <= names


@pytest.mark.parametrize(
    "position",
    [
        *("0001-01-01T00:00:00+23:59 u", "9999-12-31T23:59:59-23:59 u", "2026-01-01T00:00:00 u"),
        *("2026-01-01T00:00:00+00:00", "u", "", "2026-13-01T00:00:00+00:00 u", "2026-01-01T00:00:00+00:00 \x00"),
    ],
)
def test_list__invented_cursor_of_assignments__is_422(client: httpx.Client, position: str) -> None:
    cursor = base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")
    experiment = make_experiment(client)
    response = client.get(f"/experiments/{experiment['id']}/assignments", params={"cursor": cursor})
    expect_problem(response, 422, field="cursor")


def test_list__after_moves_and_changes__shows_the_present_state(empty_project: httpx.Client) -> None:
    experiment = make_experiment(empty_project, state="draft", name="Before")
    take(empty_project, experiment, "start")
    empty_project.patch(f"/experiments/{experiment['id']}", json={"name": "After"})
    (item,) = empty_project.get("/experiments").json()["items"]
    assert (item["status"], item["name"]) == ("running", "After")
    assert item == empty_project.get(f"/experiments/{experiment['id']}").json()


@pytest.mark.parametrize("reference", ["999999999999", "0", "9" * 18, "9" * 19, "9" * 30, "no-such-key", "x" * 64])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_experiment__unknown__is_404(client: httpx.Client, method: str, reference: str) -> None:
    body = {"name": "x"} if method == "PATCH" else None
    expect_problem(client.request(method, f"/experiments/{reference}", json=body), 404)


@pytest.mark.parametrize("reference", ["A", "a.b", "-1", "1.0", "a%20b", "%F0%9F%98%80", "x" * 65, "a%0A"])
def test_experiment__reference_that_is_neither_id_nor_key__is_a_problem(client: httpx.Client, reference: str) -> None:
    response = client.get(f"/experiments/{reference}")
    assert response.status_code in {404, 422}
    expect_problem(response, response.status_code)


def test_creation__experiments_of_one_project__do_not_take_keys_of_another(
    empty_project: httpx.Client, client: httpx.Client
) -> None:
    body = experiment_body()
    assert client.post("/experiments", json=body).status_code == 201
    assert empty_project.post("/experiments", json=body).status_code == 201
