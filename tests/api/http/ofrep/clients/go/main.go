// The OpenFeature SDK of Go against the address in SEGMENTD_URL; each line of the output is JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	"github.com/open-feature/go-sdk/openfeature"
)

func main() {
	provider := ofrep.NewProvider(os.Getenv("SEGMENTD_URL"), ofrep.WithApiKeyAuth(os.Getenv("SEGMENTD_TOKEN")))
	if err := openfeature.SetProviderAndWait(provider); err != nil {
		panic(err)
	}
	client := openfeature.NewClient("flags")
	for _, asked := range [][2]string{{"ON", "1000"}, {"OFF", "1000"}, {"NOBODY", "1000"}, {"ON", "x"}, {"ON", ""}} {
		user := openfeature.NewEvaluationContext(asked[1], map[string]any{"plan": "premium"})
		found, _ := client.BooleanValueDetails(context.Background(), asked[0], false, user)
		line, _ := json.Marshal([]any{found.Value, found.Reason, found.Variant, found.ErrorCode})
		fmt.Println(string(line))
	}
}
