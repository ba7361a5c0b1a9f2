"""A mask as a DICOM Segmentation object that references its radiograph.

`write_segmentation` writes a file from which highdicom, pydicom and viewers read exactly the given mask. It
has one BINARY segment "Pneumothorax" (SNOMED CT 36118008) of the category Morphologically abnormal structure
(49755003), found by an AUTOMATIC algorithm with a name and a version (PS3.3 A.51, C.8.20). The object belongs
to the patient and the study of its source image, and references the image.

Radiographs (CR, DX, secondary capture) have no frame of reference: each pixel of the mask belongs to the same
pixel of the referenced image.

Patient and study are copied from the source unchanged, encoded as UTF-8. A value that the standard does not
allow (an age of "62") is left out, or empty if the attribute is required. Values are never invented: a source
without the UIDs of its instance, series and study is refused.

The object's UIDs are a hash of its source, its mask and the algorithm, below the root 2.25 (PS3.5 B.2). So an
archive that receives the same result twice has it once, and another result is another object. Each object has
a series of its own, so the numbers of other series do not matter.
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
"""The number of every series written here; modalities use much smaller numbers."""

_REQUIRED_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_REQUIRED = (  # type 2 in a Segmentation: present, but may be empty
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
# Not copied: pixels; the text encoding, which changes; what makes highdicom look for planes in space;
# and the pixel spacing, because highdicom's `segread` refuses it without a slice thickness.
_NOT_COPIED = re.compile(".*PixelData|SpecificCharacterSet|.*FrameOfReference.*|.*Sequence|.*PixelSpacing")
_CODED = re.compile("[A-Z0-9_ ]{0,16}")


class NoSegmentation(Exception):  # noqa: N818  an expected outcome, not a defect
    """An image for which there can be no Segmentation object; the message gives the reason in one line."""


@dataclass(frozen=True)
class Algorithm:
    """The algorithm that found the mask. Each attribute has at most 64 characters.

    Attributes:
        name: Name of the software.
        version: Version of the software.
        model: Hash of the model's weights.
        parameters: Everything else that determines the mask, for a reader.
    """

    name: str
    version: str
    model: str
    parameters: str = ""


def write_segmentation(path: Path, source: Dataset, mask: NDArray[np.uint8], algorithm: Algorithm) -> None:
    """Write the Segmentation object of one image.

    Args:
        path: The file.
        source: The image, as returned by `data.radiographs.dicom.read_dataset`.
        mask: (Rows, Columns) of the source, in {0, 1}, not empty.
        algorithm: The algorithm that found the mask.

    Raises:
        NoSegmentation: The source lacks attributes that a reference needs, or is of a kind that has no
            Segmentation objects.
        OSError: The operating system refused.
    """
    try:
        with _quiet():
            segmentation = _segmentation(_header(source, mask.shape), source, mask, algorithm)
    except NoSegmentation:
        raise
    except Exception as error:  # pydicom and highdicom may raise any kind for hostile headers
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
    made.PatientOrientation = header.get("PatientOrientation", "")  # type 2C, C.7.6.1; highdicom sets none
    organization = UID(_uid("dimensions", header, mask, algorithm))
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for index in made.DimensionIndexSequence:
        index.DimensionOrganizationUID = organization
    several = int(source.get("NumberOfFrames", 1) or 1) > 1
    for item in _references(made):
        item.ReferencedSOPClassUID = _text(source, "SOPClassUID")
        if several and "PurposeOfReferenceCodeSequence" in item:  # the frame's source
            item.ReferencedFrameNumber = 1  # `data.radiographs.dicom` reads frame 1
    return made


def _references(made: Dataset) -> Iterator[Dataset]:
    """Yield the items that reference an image. All reference the same image, because there is only one."""
    for element in made:
        if element.VR == "SQ":
            for item in element.value:
                if "ReferencedSOPInstanceUID" in item:
                    yield item
                yield from _references(item)


def _header(source: Dataset, shape: tuple[int, ...]) -> Dataset:
    """Return the part of the source that is copied or referenced: values that the standard allows, no pixels.

    The header always says that the source is a secondary capture of one frame. For other classes highdicom
    expects what the standard requires (functional groups, planes in space), and it knows only standard
    classes. The caller then puts the true class into the items of `_references`.
    """
    header = Dataset()
    for tag in source.keys():  # noqa: SIM118  elements are parsed on access, which may fail
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
    """Return a copy of an element; None if it is not copied or its value is not valid for its VR."""
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
        if element.VR == "PN":  # a new object, because the old one remembers the source's encoding
            return DataElement(tag, "PN", [PersonName(str(value or "")) for value in values])
        return DataElement(tag, element.VR, element.value)
    except Exception:  # as in `write_segmentation`
        return None


def _uid(kind: str, header: Dataset, mask: NDArray[np.uint8], algorithm: Algorithm) -> str:
    """Return a UID computed from the arguments: a UUID of version 8 (RFC 9562), in decimal."""
    digest = hashlib.sha256(repr((kind, str(header.SOPInstanceUID), mask.shape, algorithm)).encode())
    digest.update(np.packbits(mask).tobytes())
    number = int.from_bytes(digest.digest()[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76  # version
    number = number & ~(0x3 << 62) | 2 << 62  # variant
    return f"2.25.{number}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the libraries' warnings, for example about person names of one part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
