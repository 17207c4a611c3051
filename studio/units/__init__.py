"""Minimal semantic units: the rank-one terms of adapters, their clusters, overlap and place on the map."""

from studio.units.cluster import Clusters, kmeans
from studio.units.embed import Centroids, drawn, layout_key, pca, place, umap_layout, warm_up
from studio.units.gram import cluster_units, nearest
from studio.units.overlap import Overlap, cosines, overlap
from studio.units.pool import Form, Place, Scope, layer_of, module_type_of
from studio.units.table import Units, UnitTable, units_of

__all__ = [
    "Centroids",
    "Clusters",
    "Form",
    "Overlap",
    "Place",
    "Scope",
    "UnitTable",
    "Units",
    "cluster_units",
    "cosines",
    "drawn",
    "kmeans",
    "layer_of",
    "layout_key",
    "module_type_of",
    "nearest",
    "overlap",
    "pca",
    "place",
    "umap_layout",
    "units_of",
    "warm_up",
]
