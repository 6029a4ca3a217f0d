// 聊天请求
async function chat(message, model) {
    const response = await fetch('http://localhost:8080/v1/chat/completions', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({
            model: model,
            messages: [{ role: 'user', content: message }]
        })
    });
    const data = await response.json();
    return data.choices[0].message.content;
}

// 流式聊天请求
async function streamChat(message, model, onChunk) {
    const response = await fetch('http://localhost:8080/v1/chat/completions', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({
            model: model,
            messages: [{ role: 'user', content: message }],
            stream: true
        })
    });

    const reader = response.body.getReader();
    const decoder = new TextDecoder();

    while (true) {
        const { done, value } = await reader.read();
        if (done) break;

        const chunk = decoder.decode(value);
        const lines = chunk.split('\n');

        for (const line of lines) {
            if (line.startsWith('data: ')) {
                const data = line.slice(6);
                if (data === '[DONE]') break;

                try {
                    const parsed = JSON.parse(data);
                    onChunk(parsed);
                } catch (e) {
                    // 忽略解析错误
                }
            }
        }
    }
}

// 日志监控
function monitorLogs(modelAlias) {
    const eventSource = new EventSource(
        `http://localhost:8080/api/models/${modelAlias}/logs/stream`
    );

    eventSource.onmessage = function(event) {
        const data = JSON.parse(event.data);
        const timestamp = new Date(data.log.timestamp * 1000).toLocaleTimeString();
        console.log(`[${timestamp}] ${data.log.message}`);
    };

    eventSource.onerror = function() {
        console.error('日志监控连接错误');
        eventSource.close();
    };
}

// 获取模型状态
async function getModelInfo(modelAlias) {
    const response = await fetch(`http://localhost:8080/api/models/${modelAlias}/info`);
    const data = await response.json();
    return data;
}
