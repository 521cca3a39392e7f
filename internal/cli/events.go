package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

// eventsFlags are those of events.
type eventsFlags struct {
	since, until string
	filters      []string
}

// eventsCommand is "vm events", with those of VMs alone, and "system events", with all.
func (c *CLI) eventsCommand(short string, filters ...string) *cobra.Command {
	var f eventsFlags
	cmd := &cobra.Command{
		Use: "events", Short: short,
		Long: short + `, as they come, until interrupted; with --since also those
of before, as far as they are kept, and with --until up to a time: "--since 1h --until 0s" is
what the last hour brought. With --json each is a line of JSON.`,
		Example: `  banger vm events --filter name=testbox
  banger vm events --since 1h --until 0s --filter action=failed`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			since, err := parseWhen("--since", f.since, now)
			if err != nil {
				return usageError{err, cmd}
			}
			until, err := parseWhen("--until", f.until, now)
			if err != nil {
				return usageError{err, cmd}
			}
			r := banger.EventsRequest{Since: since, Until: until, Filters: append(f.filters, filters...)}
			return c.lasting(cmd.Context(), func(client *banger.Client) error {
				err := client.SystemEvents(cmd.Context(), r, func(e banger.SystemEvent) error {
					r.After = e.Seq
					return c.printEvent(e)
				})
				if r.After == 0 && r.Since.IsZero() {
					r.Since = now // for the next daemon: what comes meanwhile
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&f.since, "since", "", "also those since then: 10m ago, or a time of RFC 3339")
	cmd.Flags().StringVar(&f.until, "until", "", "end there: 0s is now, or a time of RFC 3339")
	cmd.Flags().StringArrayVar(&f.filters, "filter", nil, "only those with name=, id=, type=, action= or label=NAME[=value]; may be repeated")
	return cmd
}

func (c *CLI) printEvent(e banger.SystemEvent) error {
	if c.json {
		return json.NewEncoder(c.Stdout).Encode(e)
	}
	words := []string{e.Time.Format(time.RFC3339), e.Type, e.Action}
	if e.Name != "" {
		words = append(words, e.Name)
	}
	line := strings.Join(words, " ")
	if e.Reason != "" {
		line += ": " + e.Reason
	}
	_, err := fmt.Fprintln(c.Stdout, strings.ReplaceAll(visible(line), "\n", " "))
	return err
}
