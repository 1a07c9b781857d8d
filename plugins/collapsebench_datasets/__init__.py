"""The first-party datasets, one file per dataset."""

from __future__ import annotations

from collapsebench import Component, hookimpl


@hookimpl
def collapsebench_datasets() -> list[Component]:
    """Return the descriptors of the first-party datasets."""
    return [
        Component(
            "gaussian",
            "collapsebench_datasets.gaussian:Gaussian",
            "Gaussian data with a known spectrum or covariance",
            parameters="collapsebench_datasets.parameters:GaussianParameters",
        ),
        Component(
            "random-field",
            "collapsebench_datasets.random_field:RandomField",
            "Gaussian random-field images with a known power spectrum",
            parameters="collapsebench_datasets.parameters:RandomFieldParameters",
        ),
        Component(
            "arcs",
            "collapsebench_datasets.arcs:Arcs",
            "A product of circular arcs: a curved manifold of known dimension, for which PCA needs twice as many",
            parameters="collapsebench_datasets.parameters:ArcsParameters",
        ),
        Component(
            "rare-events",
            "collapsebench_datasets.rare_events:RareEvents",
            "Independent on/off events and Gaussian features, for which the cost of nonlinear codes is known",
            parameters="collapsebench_datasets.parameters:RareEventsParameters",
        ),
        Component(
            "digits",
            "collapsebench_datasets.digits:Digits",
            "1,797 handwritten digits of 8 x 8 pixels, shipped with scikit-learn",
            parameters="collapsebench_datasets.parameters:DigitsParameters",
        ),
        Component(
            "fashion-mnist",
            "collapsebench_datasets.fashion_mnist:FashionMnist",
            "70,000 grey images of clothes, 28 x 28 pixels",
            parameters="collapsebench_datasets.image_parameters:OriginalParameters",
        ),
        Component(
            "mnist",
            "collapsebench_datasets.mnist:Mnist",
            "70,000 grey images of handwritten digits, 28 x 28 pixels",
            parameters="collapsebench_datasets.image_parameters:OriginalParameters",
        ),
        Component(
            "huggingface",
            "collapsebench_datasets.huggingface:HuggingFace",
            "Images or vectors from the Hugging Face Hub, or from local Parquet, Arrow or image files",
            parameters="collapsebench_datasets.image_parameters:HuggingFaceParameters",
        ),
        Component(
            "worldclim",
            "collapsebench_datasets.worldclim:WorldClim",
            "WorldClim bioclimatic variables of all land cells, split by spatial blocks",
            parameters="collapsebench_datasets.worldclim_parameters:WorldClimParameters",
        ),
        Component(
            "table",
            "collapsebench_datasets.table:Table",
            "A table of your own: CSV, TSV, Parquet, Arrow, Feather, NPY or NPZ",
            parameters="collapsebench_datasets.table_parameters:TableParameters",
        ),
    ]
