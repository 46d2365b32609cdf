import com.google.common.collect.ImmutableList;
import com.google.common.collect.ImmutableMap;
import dev.openfeature.contrib.providers.ofrep.OfrepProvider;
import dev.openfeature.contrib.providers.ofrep.OfrepProviderOptions;
import dev.openfeature.sdk.Client;
import dev.openfeature.sdk.FlagEvaluationDetails;
import dev.openfeature.sdk.ImmutableContext;
import dev.openfeature.sdk.OpenFeatureAPI;

/** The OpenFeature SDK of Java against the address in SEGMENTD_URL; each line of the output is JSON. */
public final class Flags {
    public static void main(String[] arguments) {
        OfrepProviderOptions options = OfrepProviderOptions.builder()
                .baseUrl(System.getenv("SEGMENTD_URL"))
                .headers(ImmutableMap.of("X-API-Key", ImmutableList.of(System.getenv("SEGMENTD_TOKEN"))))
                .build();
        OpenFeatureAPI.getInstance().setProviderAndWait(OfrepProvider.constructProvider(options));
        Client client = OpenFeatureAPI.getInstance().getClient();
        String[][] asked = {{"ON", "1000"}, {"OFF", "1000"}, {"NOBODY", "1000"}, {"ON", "x"}, {"ON", ""}};
        for (String[] each : asked) {
            FlagEvaluationDetails<Boolean> found =
                    client.getBooleanDetails(each[0], false, new ImmutableContext(each[1]));
            System.out.printf("[%s, %s, %s, %s]%n", found.getValue(), quoted(found.getReason()),
                    quoted(found.getVariant()), quoted(found.getErrorCode()));
        }
        System.exit(0);
    }

    private static String quoted(Object value) {
        return value == null ? "null" : "\"" + value + "\"";
    }
}
