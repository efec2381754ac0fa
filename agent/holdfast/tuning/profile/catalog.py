"""The profiles of this machine, listed and described."""

from __future__ import annotations

from holdfast.operations.model import RequestError
from holdfast.tuning.changes.store import Active
from holdfast.tuning.models import ProfileDetails, ProfileList, ProfileSummary, ProfileValue
from holdfast.tuning.planning.resolve import digest_of
from holdfast.tuning.profile.layers import Entry, Layer, ProfileError, Table
from holdfast.tuning.profile.library import Library


class Catalog:
    """Lists and explains profiles without inspecting the machine."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def profiles(self, applied: str | None) -> ProfileList:
        """List the profiles, those that cannot be used among them."""
        return ProfileList(
            profiles=[self._summary(name, applied) for name in self._library.names()]
        )

    def profile(self, name: str, applied: str | None) -> ProfileDetails:
        """Describe a profile. Raises `RequestError` and `ProfileError`."""
        lineage = self._library.lineage(name)
        layer = lineage.layers[-1]
        return ProfileDetails(
            name=layer.name,
            description=layer.description,
            builtin=layer.builtin,
            extends=layer.extends,
            policy=lineage.policy,
            applied=applied == name,
            error=None,
            lineage=[layer.name for layer in lineage.layers],
            variables={
                name: text
                for layer in lineage.layers
                for name, (text, _) in layer.variables.items()
            },
            values=[
                _described(layer, table, entry)
                for layer in lineage.layers
                for table in layer.tables
                for entry in table.entries
            ],
        )

    def changed(self, active: Active) -> bool:
        """Whether the files of a profile have changed since it was applied."""
        try:
            return digest_of(self._library.lineage(active.profile)) != active.digest
        except (ProfileError, RequestError):
            return True

    def _summary(self, name: str, applied: str | None) -> ProfileSummary:
        try:
            lineage = self._library.lineage(name)
        except (ProfileError, RequestError) as error:
            problem = str(error)
            return ProfileSummary(
                name=name,
                description="",
                builtin=False,
                extends=[],
                policy=None,
                applied=applied == name,
                error=problem,
            )
        layer = lineage.layers[-1]
        return ProfileSummary(
            name=name,
            description=layer.description,
            builtin=layer.builtin,
            extends=layer.extends,
            policy=lineage.policy,
            applied=applied == name,
            error=None,
        )


def _described(layer: Layer, table: Table, entry: Entry) -> ProfileValue:
    return ProfileValue(
        name=entry.name,
        subsystem=table.subsystem,
        target=table.target,
        select=dict(table.select) or None,
        value=entry.value,
        when=entry.when or table.when,
        only_if_present=entry.only_if_present,
        source=entry.spot.comment or None,
        profile=layer.name,
        defined_at=entry.spot.place,
    )
