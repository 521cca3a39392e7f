package daemon

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"banger"
	"banger/internal/catalogs"
	"banger/internal/config"
	"banger/internal/imagecat"
	"banger/internal/kernelcat"
)

// openCatalogs puts the catalogs together; none is read before it is needed.
func (d *Daemon) openCatalogs() {
	reader := &catalogs.Reader{Dir: d.Layout.Catalogs()}
	d.kernelBooks = catalogs.Library[kernelcat.CatEntry]{
		Kind: "kernel", Reader: reader,
		Name:    func(e kernelcat.CatEntry) string { return e.Name },
		Builtin: func() ([]kernelcat.CatEntry, error) { return kernelEntries(kernelcat.Builtin()) },
		Origins: func() ([]catalogs.Origin, error) {
			c, err := config.Read(d.Layout.Config)
			return d.origins("kernel", c.Kernel), err
		},
		Else: func(string) string { return "banger kernel ls --available" },
		Parse: func(text []byte, base *url.URL) ([]kernelcat.CatEntry, error) {
			c, err := kernelcat.ParseCatalog(text)
			if err == nil {
				err = c.Resolve(base)
			}
			return kernelEntries(c, err)
		},
	}
	d.imageBooks = catalogs.Library[imagecat.Entry]{
		Kind: "image", Reader: reader,
		Name:    func(e imagecat.Entry) string { return e.Name },
		Builtin: func() ([]imagecat.Entry, error) { return imageEntries(imagecat.Builtin()) },
		Origins: func() ([]catalogs.Origin, error) {
			c, err := config.Read(d.Layout.Config)
			return d.origins("image", c.Image), err
		},
		Else: func(name string) string {
			if strings.Contains(name, "/") {
				return "banger image ls --available"
			}
			return "banger image pull docker.io/library/" + name
		},
		Parse: func(text []byte, base *url.URL) ([]imagecat.Entry, error) {
			c, err := imagecat.ParseCatalog(text)
			if err == nil {
				err = c.Resolve(base)
			}
			return imageEntries(c, err)
		},
	}
}

func kernelEntries(c *kernelcat.Catalog, err error) ([]kernelcat.CatEntry, error) {
	if err != nil {
		return nil, err
	}
	return c.Entries, nil
}

func imageEntries(c *imagecat.Catalog, err error) ([]imagecat.Entry, error) {
	if err != nil {
		return nil, err
	}
	return c.Entries, nil
}

// origins are the catalogs of a section of the configuration. It is read anew
// at each use, so that nobody has to restart the daemon for a change.
func (d *Daemon) origins(kind string, s config.Section) []catalogs.Origin {
	var origins []catalogs.Origin
	for _, c := range s.Catalogs {
		origins = append(origins, catalogs.Origin{Kind: kind, Name: c.Name, URL: c.URL, Key: c.Key,
			AllowUnsigned: c.AllowUnsigned, AllowPrivate: c.AllowPrivate, Where: config.Where(d.Layout.Config, c.Line)})
	}
	return origins
}

// checkConfig says what is wrong with the configuration, as far as that shows
// without asking anybody.
func (d *Daemon) checkConfig() error {
	c, err := config.Read(d.Layout.Config)
	if err != nil {
		return err
	}
	for _, o := range slices.Concat(d.origins("kernel", c.Kernel), d.origins("image", c.Image)) {
		if err := o.Check(); err != nil {
			return fmt.Errorf("%s: catalog %s: %w", o.Where, o.Label(), err)
		}
	}
	return nil
}

// tellStale says that what was found in a catalog is from a copy of it.
func tellStale(o catalogs.Origin, stale error, p progress) {
	if stale != nil {
		p(banger.Progress{Notice: true, Step: "using the copy that was kept of catalog " + o.Label() + ": " + stale.Error()})
	}
}

// qualified is CATALOG/NAME, with the grammars of the two.
var qualified = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*/[A-Za-z0-9_][A-Za-z0-9._-]*$`) })

// localName is the name here of what NAME or CATALOG/NAME leads to.
func localName(name string) string {
	if qualified().MatchString(name) {
		_, name, _ = strings.Cut(name, "/")
	}
	return name
}
