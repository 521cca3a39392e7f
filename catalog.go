package banger

// Offers is what the catalogs of kernels or of images have.
type Offers[T any] struct {
	Offers   []T              `json:"offers"`
	Problems []CatalogProblem `json:"problems,omitempty"` // of catalogs that are missing from it, or there as they once were
}

// CatalogProblem says what keeps a catalog, or a part of it, from being used.
type CatalogProblem struct {
	Catalog string `json:"catalog"`          // its name, or where it is
	Cached  bool   `json:"cached,omitempty"` // an earlier copy of it is used
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do about it
}
