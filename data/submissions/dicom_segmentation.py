"""A mask as a DICOM Segmentation object that points at its radiograph.

Promises: `write_segmentation` writes a file that highdicom, pydicom and a viewer read back to exactly the
mask given: one BINARY segment "Pneumothorax" (SNOMED CT 36118008) of the category Morphologically abnormal
structure (49755003), found by an AUTOMATIC algorithm that is named with its version (PS3.3 A.51, C.8.20).
It belongs to the patient and the study of its source image, and references it.

Radiographs (CR, DX, secondary capture) have no frame of reference: the mask lies on the pixels of the
image that it references, row for row.

What is copied of the source is patient and study, as it is, encoded as UTF-8. A value that the standard
does not allow (an age of "62") is left out, or empty where the attribute must be there; one that would have
to be made up is never made up: a source without the UIDs of its instance, series and study is refused.

The object's UIDs follow from its source, its mask and what made it (a hash, below the root 2.25 of
PS3.5 B.2): the same answer sent to an archive twice is there once, another answer is another object. The
series is one of its own, so that the numbering of other series does not matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pydicom.valuerep import STR_VR, PersonName, validate_value

SERIES_NUMBER = 1000
"""Of every series written here; well apart from those of a modality."""

_REQUIRED_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_REQUIRED = (  # of type 2 in a Segmentation: present, if need be empty
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
_SEXES = ("M", "F", "O")
# Pixels, text coded otherwise, what would make highdicom look for planes in space; and the spacing: without
# a slice's thickness, which a radiograph has not, highdicom's `segread` refuses it.
_NOT_COPIED = re.compile(".*PixelData|SpecificCharacterSet|.*FrameOfReference.*|.*Sequence|.*PixelSpacing")
_CODED = re.compile("[A-Z0-9_ ]{0,16}")


class NoSegmentation(Exception):  # noqa: N818  it is an outcome, not a defect
    """Why there can be no Segmentation object for an image, in one line."""


@dataclass(frozen=True)
class Algorithm:
    """What found the mask.

    Attributes:
        name: Of the software, at most 64 characters, as all of these.
        version: Of the software.
        model: Which model: a hash of its weights.
        parameters: Whatever else decides the mask, for a reader.
    """

    name: str
    version: str
    model: str
    parameters: str = ""


def write_segmentation(path: Path, source: Dataset, mask: NDArray[np.uint8], algorithm: Algorithm) -> None:
    """Write the Segmentation object of one image.

    Args:
        path: The file.
        source: The image, as `data.radiographs.dicom.read_dataset` gave it.
        mask: (Rows, Columns) of the source, in {0, 1}, not empty.
        algorithm: What found it.

    Raises:
        NoSegmentation: The source lacks what an object needs to point at it, or is of a kind that has no
            Segmentation objects.
        OSError: The operating system refused.
    """
    try:
        with _quiet():
            segmentation = _segmentation(_header(source, mask.shape), source, mask, algorithm)
    except NoSegmentation:
        raise
    except Exception as error:  # hostile headers make pydicom and highdicom raise anything
        raise NoSegmentation(f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]) from error
    with _quiet():
        segmentation.save_as(path)


def _segmentation(
    header: Dataset, source: Dataset, mask: NDArray[np.uint8], algorithm: Algorithm
) -> Segmentation:
    description = SegmentDescription(
        segment_number=1,
        segment_label="Pneumothorax",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Pneumothorax,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name,
            version=f"{algorithm.version}, model {algorithm.model}",
            family=codes.DCM.ArtificialIntelligence,
            parameters={"thresholds": algorithm.parameters} if algorithm.parameters else None,
        ),
    )
    made = Segmentation(
        source_images=[header],
        pixel_array=mask[np.newaxis],
        segmentation_type="BINARY",
        segment_descriptions=[description],
        series_instance_uid=_uid("series", header, mask, algorithm),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid("instance", header, mask, algorithm),
        instance_number=1,
        manufacturer=algorithm.name,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=algorithm.model,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        content_label="PNEUMOTHORAX",
        content_description="Pneumothorax found by an algorithm",
        series_description="Pneumothorax segmentation",
    )
    made.PatientOrientation = header.get("PatientOrientation", "")  # type 2C, C.7.6.1; highdicom has none
    organization = UID(_uid("dimensions", header, mask, algorithm))
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for index in made.DimensionIndexSequence:
        index.DimensionOrganizationUID = organization
    several = int(source.get("NumberOfFrames", 1) or 1) > 1
    for item in _references(made):
        item.ReferencedSOPClassUID = _text(source, "SOPClassUID")
        if several and "PurposeOfReferenceCodeSequence" in item:  # what this frame was derived from
            item.ReferencedFrameNumber = 1  # the one that `data.radiographs.dicom` reads
    return made


def _references(made: Dataset) -> Iterator[Dataset]:
    """The places where an image is referenced; there is but one image to reference."""
    for element in made:
        if element.VR == "SQ":
            for item in element.value:
                if "ReferencedSOPInstanceUID" in item:
                    yield item
                yield from _references(item)


def _header(source: Dataset, shape: tuple[int, ...]) -> Dataset:
    """The source as far as it is copied or referenced: values that the standard allows, and no pixels.

    To highdicom it is a secondary capture of one frame, whatever it is: it treats others by what their kind
    should have (functional groups, planes in space) and knows only the standard's. `_references` mends it.
    """
    header = Dataset()
    for tag in source.keys():  # noqa: SIM118  elements are parsed when looked at, which may fail
        element = _valid(source, tag)
        if element is not None:
            header.add(element)
    for keyword in _REQUIRED_UIDS:
        value = _text(source, keyword)
        if not value:
            raise NoSegmentation(f"its header has no {keyword}")
        if not UID(value).is_valid:
            raise NoSegmentation(f"its header has no valid {keyword}: {value[:80]}")
        setattr(header, keyword, value)
    for keyword in _REQUIRED:
        if keyword not in header:
            setattr(header, keyword, "")
    if header.PatientSex not in _SEXES:
        header.PatientSex = ""
    header.Rows, header.Columns = shape
    header.SOPClassUID = SecondaryCaptureImageStorage
    header.pop("NumberOfFrames", None)
    if "Modality" not in header:
        header.Modality = "OT"
    return header


def _text(source: Dataset, keyword: str) -> str:
    return str(source.get(keyword) or "").strip(" \0")


def _valid(source: Dataset, tag: Any) -> DataElement | None:
    """A copy of an element; None for what is not copied or is no value of its kind."""
    try:
        element: DataElement = source[tag]
        keyword = element.keyword
        if not keyword or _NOT_COPIED.fullmatch(keyword):
            return None
        values = element.value if element.VM > 1 else [element.value]
        for value in values:
            if element.VR == "CS" and not _CODED.fullmatch(str(value or "")):
                return None
            if element.VR in STR_VR and value not in (None, ""):
                validate_value(element.VR, str(value), RAISE)
        if element.VR == "PN":  # anew: it remembers the source's encoding
            return DataElement(tag, "PN", [PersonName(str(value or "")) for value in values])
        return DataElement(tag, element.VR, element.value)
    except Exception:  # as in `write_segmentation`
        return None


def _uid(kind: str, header: Dataset, mask: NDArray[np.uint8], algorithm: Algorithm) -> str:
    """An identifier that follows from the answer; a UUID of version 8 (RFC 9562), in decimal."""
    digest = hashlib.sha256(repr((kind, str(header.SOPInstanceUID), mask.shape, algorithm)).encode())
    digest.update(np.packbits(mask).tobytes())
    number = int.from_bytes(digest.digest()[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76  # version
    number = number & ~(0x3 << 62) | 2 << 62  # variant
    return f"2.25.{number}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No remarks of the libraries' on names of one part and the like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
