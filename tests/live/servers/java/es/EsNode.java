import java.util.Collections;
import java.util.concurrent.CountDownLatch;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.transport.Netty4Plugin;

/** A node of Elasticsearch on a loopback port: {@code EsNode PORT HOME [REPOSITORIES]}; without the last, no path.repo. */
public class EsNode extends Node {
    EsNode(Environment environment) {
        super(environment, Collections.singletonList(Netty4Plugin.class), false);
    }

    public static void main(String[] arguments) throws Exception {
        String home = arguments[1];
        Settings.Builder settings = Settings.builder()
            .put("path.home", home)
            .put("path.data", home + "/data")
            .put("path.logs", home + "/logs")
            .put("http.port", arguments[0])
            .put("transport.port", "0")
            .put("network.host", "127.0.0.1")
            .put("discovery.type", "single-node")
            .put("cluster.name", "lab")
            .put("node.name", "n1")
            .put("transport.type", "netty4")
            .put("http.type", "netty4")
            .put("cluster.routing.allocation.disk.threshold_enabled", "false");
        if (arguments.length > 2) {
            settings.putList("path.repo", arguments[2]);
        }
        Node node = new EsNode(
            InternalSettingsPreparer.prepareEnvironment(settings.build(), Collections.emptyMap(), null, () -> "n1"));
        node.start();
        System.out.println("started");
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception e) {
                e.printStackTrace();
            }
            stopped.countDown();
        }));
        stopped.await();
    }
}
